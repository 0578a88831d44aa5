use super::*;
use crate::tls::identity::test_identity as identity;

fn routes(allow: &[(&str, &[&str])]) -> Routes {
    let names = |list: &[&str]| {
        list.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    Routes::new(
        vec![
            (
                "prod".to_owned(),
                names(&[
                    "us-east-1a",
                    "entry.prod.us-east-1.datomic.net",
                    "10.0.0.1",
                    "[fd00::1]",
                ]),
            ),
            ("test".to_owned(), names(&["us-east-1a", "Zone-B.example."])),
        ],
        allow
            .iter()
            .map(|(identity, upstreams)| Allow {
                identity: (*identity).to_owned(),
                upstreams: names(upstreams),
            })
            .collect(),
    )
}

#[test]
fn an_authority_names_an_upstream_or_one_of_its_endpoints() {
    let routes = routes(&[]);
    let anyone = identity("client");
    for (authority, index) in [
        ("prod:8182", 0),
        ("prod:1", 0),
        ("test:443", 1),
        ("entry.prod.us-east-1.datomic.net:8182", 0),
        ("ENTRY.prod.us-east-1.datomic.net.:8182", 0),
        ("us-east-1a:8182", 0),
        ("zone-b.example:8182", 1),
    ] {
        assert_eq!(
            routes.find(authority, &anyone),
            Access::Upstream(index),
            "{authority}"
        );
    }
    assert_eq!(routes.find("other:8182", &anyone), Access::NoSuchUpstream);
    assert_eq!(routes.ambiguous(), [("us-east-1a", vec!["prod", "test"])]);
}

#[test]
fn the_allow_list_decides_and_hides_the_rest() {
    let routes = routes(&[
        ("spiffe://corp/test/*", &["test"]),
        ("admin", &["prod", "test"]),
    ]);
    let (admin, tester) = (identity("admin"), identity("spiffe://corp/test/alice"));
    assert_eq!(routes.find("prod:1", &admin), Access::Upstream(0));
    assert_eq!(routes.find("prod:1", &tester), Access::NotAllowed);
    assert_eq!(routes.find("nosuch:1", &tester), Access::NotAllowed);
    // Of several upstreams with this label, the first that the client may reach.
    assert_eq!(routes.find("us-east-1a:1", &admin), Access::Upstream(0));
    assert_eq!(routes.find("us-east-1a:1", &tester), Access::Upstream(1));
    for other in [
        "spiffe://corp/test",
        "admin2",
        "Admin",
        "spiffe://corp/prod/bob",
    ] {
        assert_eq!(
            routes.find("test:1", &identity(other)),
            Access::NotAllowed,
            "{other}"
        );
    }
}

/// Spellings of loopback, link-local, metadata, private and this host's addresses: none leads anywhere.
pub(crate) const LITERALS: &[&str] = &[
    "127.0.0.1:8182",
    "127.1:80",
    "127.0.1:80",
    "2130706433:80",
    "0x7f000001:80",
    "0x7f.0.0.1:80",
    "0177.0.0.1:80",
    "017700000001:80",
    "127.000.000.001:80",
    "127.0.0.1.:80",
    "0:80",
    "0.0.0.0:80",
    "00000000:80",
    "localhost:80",
    "LOCALHOST:80",
    "localhost.:80",
    "localhost.localdomain:80",
    "ip6-localhost:80",
    "[::1]:80",
    "::1:80",
    "[0:0:0:0:0:0:0:1]:80",
    "[::ffff:127.0.0.1]:80",
    "[::ffff:7f00:1]:80",
    "[::127.0.0.1]:80",
    "[fe80::1]:80",
    "[fe80::1%25eth0]:80",
    "[fe80::1%eth0]:80",
    "[::]:80",
    "[fd00:ec2::254]:80",
    "169.254.169.254:80",
    "169.254.43518:80",
    "2852039166:80",
    "0xa9fea9fe:80",
    "0251.0376.0251.0376:80",
    "169.254.170.2:80",
    "instance-data:80",
    "metadata.google.internal:80",
    "10.0.0.1:8182",
    "10.1:80",
    "167772161:80",
    "192.168.0.1:80",
    "172.16.0.1:80",
    "[::ffff:10.0.0.1]:8182",
    "[fd00::1]:8182",
    "fd00::1:8182",
    "prod@127.0.0.1:80",
    "prod:x@127.0.0.1:80",
    "127.0.0.1:80#prod",
    "127.0.0.1:80/prod",
    "prod%00.example:80",
    "%6c%6f%63alhost:80",
    "%31%32%37.0.0.1:80",
    "prod\\@127.0.0.1:80",
    "http://prod:80",
    "//prod:80",
    "prod",
    "prod:",
    "prod:0",
    "prod:99999",
    "prod:+80",
    "prod:80 ",
    " prod:80",
    "prod.127.0.0.1.nip.io:80",
    "127.0.0.1.nip.io:80",
    "①②⑦.0.0.1:80",
    "prod:８０",
];

#[test]
fn no_spelling_of_an_address_reaches_anything() {
    assert!(LITERALS.len() >= 60, "{}", LITERALS.len());
    let routes = routes(&[]);
    for authority in LITERALS {
        let access = routes.find(authority, &identity("client"));
        assert!(
            !matches!(access, Access::Upstream(_)),
            "{authority}: {access:?}"
        );
    }
}

proptest::proptest! {
    /// Whatever the text: an upstream is found only by the exact name of one, or of an endpoint.
    #[test]
    fn arbitrary_text_reaches_nothing(text in "\\PC{0,300}") {
        let access = routes(&[]).find(&text, &identity("client"));
        let host = text.rsplit_once(':').map_or("", |(host, _)| host).to_lowercase();
        let known = ["prod", "test", "us-east-1a", "entry.prod.us-east-1.datomic.net", "zone-b.example"];
        proptest::prop_assert!(
            !matches!(access, Access::Upstream(_)) || known.contains(&host.trim_end_matches('.'))
        );
    }
}
