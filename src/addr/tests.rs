use super::aws::{
    EntryName, entry_name, is_alb_name, is_region, is_zone_id, region_of_zone, zone_of,
};
use super::*;
use invalid::{INVALID, ODD};

mod invalid;

const VPCE: &str =
    "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com";

#[test]
fn a_text_that_cannot_be_an_endpoint_is_explained() {
    for (text, words) in INVALID {
        match parse_endpoint(text) {
            Ok(parsed) => panic!("{text:?} was taken as {parsed:?}"),
            Err(NameError(what)) => {
                assert!(what.contains(words), "{text:?}: {what}");
                assert!(!what.ends_with('.'), "{text:?}: {what}");
            }
        }
    }
}

#[test]
fn an_odd_host_is_a_warning_and_never_refused() {
    for (host, words) in ODD {
        let parsed = parse_endpoint(&format!("{host}:8182")).unwrap();
        let what = oddity(&parsed.host).unwrap_or_else(|| panic!("{host} is not odd"));
        assert!(what.contains(words), "{host}: {what}");
        assert!(!what.ends_with('.'), "{host}: {what}");
    }
}

/// Names of all partitions, of Local Zones, and of private zones of the user's own: accepted without a word.
#[test]
fn hosts_of_all_partitions_and_of_ones_own_are_not_odd() {
    let vpce = |region: &str, suffix: &str| {
        format!("vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.{region}.vpce.{suffix}")
    };
    let zonal = |zone: &str, region: &str, suffix: &str| {
        vpce(region, suffix).replace("s7g7d18a", &format!("s7g7d18a-{zone}"))
    };
    let nlb = |region: &str, suffix: &str| format!("my-nlb-0123456789abcdef.elb.{region}.{suffix}");
    let entry = |region: &str| format!("entry-http.prod.{region}.datomic.net");
    for host in [
        vpce("us-east-1", "amazonaws.com"),
        vpce("us-gov-west-1", "amazonaws.com"),
        vpce("us-gov-east-1", "amazonaws.com"),
        vpce("ap-southeast-7", "amazonaws.com"),
        vpce("mx-central-1", "amazonaws.com"),
        vpce("il-central-1", "amazonaws.com"),
        vpce("ca-west-1", "amazonaws.com"),
        vpce("cn-north-1", "amazonaws.com.cn"),
        vpce("cn-northwest-1", "amazonaws.com.cn"),
        vpce("eusc-de-east-1", "amazonaws.eu"),
        vpce("us-iso-east-1", "c2s.ic.gov"),
        vpce("us-iso-west-1", "c2s.ic.gov"),
        vpce("us-isob-east-1", "sc2s.sgov.gov"),
        vpce("eu-isoe-west-1", "cloud.adc-e.uk"),
        vpce("us-isof-south-1", "csp.hci.ic.gov"),
        zonal("us-east-1a", "us-east-1", "amazonaws.com"),
        zonal("us-gov-west-1b", "us-gov-west-1", "amazonaws.com"),
        zonal("cn-north-1a", "cn-north-1", "amazonaws.com.cn"),
        zonal("eusc-de-east-1a", "eusc-de-east-1", "amazonaws.eu"),
        zonal("us-west-2-lax-1a", "us-west-2", "amazonaws.com"),
        zonal("us-east-1-wl1-bos-wlz-1", "us-east-1", "amazonaws.com"),
        nlb("us-east-1", "amazonaws.com"),
        nlb("cn-northwest-1", "amazonaws.com.cn"),
        nlb("eusc-de-east-1", "amazonaws.eu"),
        format!("us-east-1a.{}", nlb("us-east-1", "amazonaws.com")),
        format!("us-west-2-lax-1b.{}", nlb("us-west-2", "amazonaws.com")),
        "internal-my-alb-0123456789.us-east-1.elb.amazonaws.com".to_owned(),
        "dualstack.my-nlb-0123.elb.us-east-1.amazonaws.com".to_owned(),
        entry("us-east-1"),
        entry("eusc-de-east-1"),
        entry("ap-southeast-7"),
        entry("us-gov-west-1"),
        "entry.prod.us-east-1.datomic.net".to_owned(),
        "datomic.example.com".to_owned(),
        "vpce-datomic.corp.example".to_owned(),
        "datomic.vpce.corp.example".to_owned(),
        "entry.datomic.corp.example".to_owned(),
        "entry-http.corp.example".to_owned(),
        "entry.prod".to_owned(),
        "db".to_owned(),
        "my_host".to_owned(),
        "10.0.0.1".to_owned(),
    ] {
        let parsed = parse_endpoint(&format!("{host}:8182")).unwrap();
        assert_eq!(oddity(&parsed.host), None, "{host}");
    }
}

#[test]
fn long_names_are_refused() {
    let label = "a".repeat(64);
    assert!(parse_endpoint(&format!("{label}.x:1")).is_err());
    let long = vec!["abcdefgh"; 40].join(".");
    assert!(parse_endpoint(&format!("{long}:1")).is_err());
}

#[test]
fn right_names_are_taken() {
    for (text, host, port) in [
        ("mock:8182", "mock", 8182),
        ("DB.example.com.:8182", "DB.example.com", 8182),
        ("127.0.0.11:40001", "127.0.0.11", 40001),
        ("127.0.0.11:8184", "127.0.0.11", 8184),
        ("[2001:db8::1]:8182", "2001:db8::1", 8182),
        ("[::ffff:10.0.0.1]:8182", "10.0.0.1", 8182),
        ("my_host:1", "my_host", 1),
        ("xn--dtenbnk-5wa2l:8182", "xn--dtenbnk-5wa2l", 8182),
    ] {
        let parsed = parse_endpoint(text).unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
    }
}

#[test]
fn names_to_derive_from_must_have_their_shape() {
    let (parsed, name) = parse_vpce(VPCE).unwrap();
    assert_eq!((parsed.port, name.region.as_str()), (8182, "us-west-2"));
    for (text, words) in [
        ("db:8182", "not a VPC endpoint's DNS name"),
        (
            "vpce-datomic.corp.example",
            "does not end in .vpce.amazonaws.com",
        ),
        (
            "vpce-0123-abcd.vpce-svc-0456.us-east-1.vpce.amazonaws.com",
            "no id of an endpoint service",
        ),
        ("vpce-083453c598589f6ba", "endpoint's id"),
    ] {
        let NameError(what) = parse_vpce(text).unwrap_err();
        assert!(what.contains(words), "{text}: {what}");
    }
    let (parsed, name) = parse_nlb("my-nlb-0123.elb.us-east-1.amazonaws.com:9000").unwrap();
    assert_eq!(
        (parsed.port, name.zone, name.name.as_str()),
        (9000, None, "my-nlb-0123")
    );
    let (_, name) = parse_nlb("us-east-1b.my-nlb-0123.elb.us-east-1.amazonaws.com").unwrap();
    assert_eq!(name.regional(), "my-nlb-0123.elb.us-east-1.amazonaws.com");
    assert_eq!(
        name.zonal("us-east-1c"),
        "us-east-1c.my-nlb-0123.elb.us-east-1.amazonaws.com"
    );
    for alb in [
        "internal-my-alb-0123456789.us-east-1.elb.amazonaws.com",
        "my-alb-0123456789.cn-north-1.elb.amazonaws.com.cn:8182",
    ] {
        assert!(is_alb_name(alb.trim_end_matches(":8182")));
        let NameError(what) = parse_nlb(alb).unwrap_err();
        assert!(what.contains("application load balancer"), "{alb}: {what}");
    }
    let NameError(what) = parse_nlb("db.example.com").unwrap_err();
    assert!(what.contains("not a network load balancer's"), "{what}");
}

#[test]
fn regions_and_zones_are_known_by_their_shape() {
    for (text, region) in [
        ("us-east-1", true),
        ("ap-southeast-2", true),
        ("us-gov-west-1", true),
        ("us-iso-east-1", true),
        ("cn-north-1", true),
        ("eusc-de-east-1", true),
        ("us-east", false),
        ("us-east-1a", false),
        ("useast1", false),
        ("", false),
        ("us-east-", false),
        ("use1-az1", false),
        ("Us-East-1", false),
    ] {
        assert_eq!(is_region(text), region, "{text}");
    }
    for (zone, region) in [
        ("us-east-1a", Some("us-east-1")),
        ("us-gov-west-1c", Some("us-gov-west-1")),
        ("eusc-de-east-1b", Some("eusc-de-east-1")),
        ("us-west-2-lax-1a", Some("us-west-2")),
        ("af-south-1-los-1a", Some("af-south-1")),
        ("us-east-1-wl1-bos-wlz-1", Some("us-east-1")),
        ("ap-northeast-1-wl1-nrt-wlz-1", Some("ap-northeast-1")),
        ("us-east-1", None),
        ("us-east-1-", None),
        ("us-east-1-x", None),
        ("use1-az1", None),
        ("a", None),
        ("", None),
    ] {
        assert_eq!(region_of_zone(zone), region, "{zone}");
    }
    for (id, is) in [
        ("use1-az1", true),
        ("usw2-lax1-az1", true),
        ("use1-wl1-bos-wlz1", true),
        ("usgw1-az3", true),
        ("us-east-1a", false),
        ("-az1", false),
        ("use1-az", false),
        ("USE1-az1", false),
    ] {
        assert_eq!(is_zone_id(id), is, "{id}");
    }
    for (host, zone) in [
        (VPCE, None),
        (
            "us-west-2a.my-nlb.elb.us-west-2.amazonaws.com",
            Some("us-west-2a"),
        ),
        ("us-east-1a.my-nlb.elb.us-west-2.amazonaws.com", None),
        ("my-nlb.elb.us-west-2.amazonaws.com", None),
        ("db.example.com", None),
    ] {
        assert_eq!(zone_of(host).as_deref(), zone, "{host}");
    }
    let zonal = VPCE.replace("s7g7d18a", "s7g7d18a-us-west-2-lax-1a");
    assert_eq!(zone_of(&zonal).as_deref(), Some("us-west-2-lax-1a"));
    let entry = EntryName {
        http: true,
        group: "reports".to_owned(),
        region: "us-east-1".to_owned(),
    };
    assert_eq!(
        entry_name("entry-http.reports.us-east-1.datomic.net"),
        Some(entry)
    );
}

#[test]
fn system_names_are_checked() {
    for good in ["prod", "Prod-2", "a"] {
        assert_eq!(aws::invalid_system(good), None, "{good}");
    }
    for (bad, words) in [
        ("", "empty"),
        ("my.system", "letters, digits and hyphens"),
        ("my_system", "letters, digits and hyphens"),
        ("-x", "hyphen"),
        (
            "entry.prod.us-east-1.datomic.net",
            "the system's name in it is prod",
        ),
    ] {
        let what = aws::invalid_system(bad).unwrap();
        assert!(what.contains(words), "{bad}: {what}");
    }
    assert!(
        aws::invalid_region("us-east-1a")
            .unwrap()
            .contains("its region is us-east-1")
    );
    assert!(
        aws::invalid_region("useast")
            .unwrap()
            .contains("no AWS region")
    );
}

/// Every spelling of an own listener's address is recognised, and nothing else.
#[test]
fn own_listeners_are_recognised_in_every_spelling() {
    let parse = |text: &str| text.parse::<std::net::SocketAddr>().unwrap();
    let this_machine = |ip: IpAddr| ip == IpAddr::from([10, 0, 0, 9]);
    for (listener, socket, own) in [
        ("127.0.0.1:8182", "127.0.0.1:8182", true),
        ("127.0.0.1:8182", "[::ffff:127.0.0.1]:8182", true),
        ("127.0.0.1:8182", "0.0.0.0:8182", true),
        ("127.0.0.1:8182", "127.0.0.2:8182", false),
        ("127.0.0.1:8182", "127.0.0.1:8183", false),
        ("[::1]:8182", "[::1]:8182", true),
        ("[::1]:8182", "[::]:8182", true),
        ("[::1]:8182", "127.0.0.1:8182", false),
        ("0.0.0.0:8182", "127.0.0.7:8182", true),
        ("0.0.0.0:8182", "10.0.0.9:8182", true),
        ("[::]:8182", "10.0.0.9:8182", true),
        ("[::]:8182", "[::ffff:10.0.0.9]:8182", true),
        ("0.0.0.0:8182", "10.0.0.8:8182", false),
        ("10.0.0.9:8182", "10.0.0.9:8182", true),
        ("10.0.0.9:8182", "127.0.0.1:8182", false),
        ("0.0.0.0:0", "127.0.0.1:0", false),
    ] {
        assert_eq!(
            is_own_listener(parse(socket), &[parse(listener)], this_machine),
            own,
            "{listener} {socket}"
        );
    }
}
