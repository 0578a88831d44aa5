use super::aws::{is_region, zone_of};
use super::*;
use invalid::INVALID;

mod invalid;

const VPCE: &str =
    "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com";

#[test]
fn a_wrong_name_is_told_what_it_is() {
    for (text, words) in INVALID {
        match check_name(NameKind::Endpoint, text) {
            Ok(place) => panic!("{text:?} was taken as {place:?}"),
            Err(NameError(what)) => {
                assert!(what.contains(words), "{text:?}: {what}");
                assert!(!what.ends_with('.'), "{text:?}: {what}");
            }
        }
    }
}

#[test]
fn long_names_are_refused() {
    let label = "a".repeat(64);
    assert!(check_name(NameKind::Endpoint, &format!("{label}.x:1")).is_err());
    let long = vec!["abcdefgh"; 40].join(".");
    assert!(check_name(NameKind::Endpoint, &format!("{long}:1")).is_err());
}

#[test]
fn right_names_are_taken() {
    for (text, host, port) in [
        ("mock:8182", "mock", 8182),
        ("DB.example.com.:8182", "DB.example.com", 8182),
        ("127.0.0.11:40001", "127.0.0.11", 40001),
        ("127.0.0.11:8184", "127.0.0.11", 8184),
        ("[2001:db8::1]:8182", "2001:db8::1", 8182),
        ("my_host:1", "my_host", 1),
        (
            "my-nlb-1234.elb.us-west-2.amazonaws.com:8182",
            "my-nlb-1234.elb.us-west-2.amazonaws.com",
            8182,
        ),
        ("entry.prod:8182", "entry.prod", 8182),
        ("xn--dtenbnk-5wa2l:8182", "xn--dtenbnk-5wa2l", 8182),
    ] {
        let place = check_name(NameKind::Endpoint, text).unwrap();
        assert_eq!((place.host.as_str(), place.port), (host, port), "{text}");
    }
    let other = check_name(NameKind::Vpce, "db:8182").unwrap_err();
    assert!(other.0.contains("not a VPC endpoint's DNS name"));
}

#[test]
fn zones_are_read_from_names() {
    for (host, zone) in [
        (
            "vpce-083453c598589f6ba-s7g7d18a-us-west-2b.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
            Some("us-west-2b"),
        ),
        (VPCE, None),
        (
            "US-WEST-2A.my-nlb.elb.us-west-2.amazonaws.com",
            Some("us-west-2a"),
        ),
        ("my-nlb.elb.us-west-2.amazonaws.com", None),
        ("db.example.com", None),
    ] {
        assert_eq!(zone_of(host).as_deref(), zone, "{host}");
    }
    for (text, region) in [
        ("us-east-1", true),
        ("ap-southeast-2", true),
        ("us-gov-west-1", true),
        ("us-iso-east-1", true),
        ("cn-north-1", true),
        ("us-east", false),
        ("us-east-1a", false),
        ("useast1", false),
        ("", false),
        ("us-east-", false),
        ("use1-az1", false),
    ] {
        assert_eq!(is_region(text), region, "{text}");
    }
}
