//! Client maps in the shapes that people have, and what becomes of each.

use super::*;

/// What is expected of a shape: the endpoint read, where in the file, and the keys that patching removes.
enum Expected {
    /// Path, endpoint (`-` none, `!` unreadable), removed keys.
    Map(&'static str, &'static str, &'static [&'static str]),
    /// Words of the error.
    Refused(&'static str),
}
use Expected::{Map, Refused};

const SHAPES: &[(&str, Expected)] = &[
    // Bare maps.
    (
        r#"{:server-type :cloud :region "r" :system "s" :endpoint "e"}"#,
        Map("", "e", &[]),
    ),
    (
        r#"{:server-type :ion :region "r" :system "s" :endpoint "e" :proxy-port 8182}"#,
        Map("", "e", &[":proxy-port"]),
    ),
    (
        r#"{:server-type :cloud, :region "r", :system "s", :query-group "q", :endpoint "e", :proxy-port 8182}"#,
        Map("", "e", &[":proxy-port"]),
    ),
    (r#"{:system "s" :region "r"}"#, Map("", "-", &[])),
    (
        r#"{:system "s" :region "r" :creds-profile "p" :proxy-host "127.0.0.1" :proxy-port 1080}"#,
        Map("", "-", &[":proxy-host", ":proxy-port"]),
    ),
    (r#"{:endpoint "e"}"#, Map("", "e", &[])),
    (r#"{:endpoint nil :system "s"}"#, Map("", "-", &[])),
    (
        r#"{:endpoint "e" :proxy-port nil}"#,
        Map("", "e", &[":proxy-port"]),
    ),
    (
        r#"{:endpoint "e" :validate-hostnames false :access-key "k" :secret "s"}"#,
        Map("", "e", &[]),
    ),
    (
        "{;comment\n:endpoint ; here\n\"e\" ; there\n}",
        Map("", "e", &[]),
    ),
    (r#"{#_#_:endpoint "old" :endpoint "e"}"#, Map("", "e", &[])),
    (
        r#"{:endpoint "e" #_ :proxy-port #_ 8182}"#,
        Map("", "e", &[]),
    ),
    (r#"^{:doc "x"} {:endpoint "e"}"#, Map("", "e", &[])),
    (r#"^:dynamic {:endpoint "e"}"#, Map("", "e", &[])),
    ("\u{feff}{:endpoint \"e\"}", Map("", "e", &[])),
    (
        "{:endpoint \"e\"}\r\n{:endpoint \"second form\"}",
        Map("", "e", &[]),
    ),
    (
        r#"{:endpoint "http://\u0065" :system "s"}"#,
        Map("", "http://e", &[]),
    ),
    // Namespaced maps.
    (r#"#:_{:endpoint "e"}"#, Refused("no map in it")),
    (
        r#"#:client{:_/endpoint "e" :_/proxy-port 1}"#,
        Map("", "e", &[":proxy-port"]),
    ),
    (r#"#:client{:endpoint "e"}"#, Refused("no map in it")),
    (
        r#"#:app{:datomic {:endpoint "e" :proxy-port 1}}"#,
        Map("app%2Fdatomic", "e", &[":proxy-port"]),
    ),
    (
        r#"{:datomic/endpoint "x" :datomic/client {:endpoint "e"}}"#,
        Map("datomic%2Fclient", "e", &[]),
    ),
    // Nested in an application's configuration.
    (
        r#"{:port 8080 :datomic {:system "s" :region "r"}}"#,
        Map("datomic", "-", &[]),
    ),
    (
        r#"{:app {:db {:client {:endpoint "e" :proxy-port 8182}}}}"#,
        Map("app/db/client", "e", &[":proxy-port"]),
    ),
    (
        r#"{:components [{:name "web"} {:name "db" :args {:endpoint "e"}}]}"#,
        Map("components/1/args", "e", &[]),
    ),
    (r#"{"datomic" {:endpoint "e"}}"#, Map("datomic", "e", &[])),
    (r#"{datomic {:endpoint "e"}}"#, Map("datomic", "e", &[])),
    (
        r#"{:a {:endpoint "e"} #_#_:b {:endpoint "f"}}"#,
        Map("a", "e", &[]),
    ),
    (
        r#"{:a {:endpoint "e" :more {:endpoint "inner"}}}"#,
        Map("a", "e", &[]),
    ),
    (
        r#"{:dev {:system "s"} :prod {:endpoint "e"}}"#,
        Refused("#dev #prod"),
    ),
    (
        r#"{:s3 {:endpoint "http://minio"} :datomic {:endpoint "e"}}"#,
        Refused("#s3 #datomic"),
    ),
    (
        r#"{:datomic {:uri "datomic:dev://localhost:4334/db"}}"#,
        Refused("no map in it"),
    ),
    // aero.
    (
        r#"{:datomic #profile {:dev {:server-type :dev-local} :prod {:system "s" :endpoint "e"}}}"#,
        Map("datomic/prod", "e", &[]),
    ),
    (
        r#"{:datomic #profile {:dev {:system "s"} :prod {:system "t"}}}"#,
        Refused("#datomic/dev #datomic/prod"),
    ),
    (
        r#"{:datomic {:system #env SYSTEM :region "r" :endpoint "e"}}"#,
        Map("datomic", "e", &[]),
    ),
    (
        r#"{:datomic {:system "s" :endpoint #env ENDPOINT}}"#,
        Map("datomic", "!", &[]),
    ),
    (
        r#"{:datomic {:system "s" :endpoint #or [#env ENDPOINT "e"]}}"#,
        Map("datomic", "!", &[]),
    ),
    (
        r#"{:datomic {:system "s" :endpoint #join ["http://entry." #ref [:system] ":8182"]}}"#,
        Map("datomic", "!", &[]),
    ),
    (
        r#"{:datomic {:system "s" :endpoint "e" :proxy-port #long #env PORT}}"#,
        Map("datomic", "e", &[":proxy-port"]),
    ),
    (
        r#"#merge [{:a 1} {:datomic {:endpoint "e"}}]"#,
        Map("1/datomic", "e", &[]),
    ),
    (
        r#"{:datomic #include "datomic.edn"}"#,
        Refused("no map in it"),
    ),
    // integrant and duct.
    (
        r#"{:db/conn {:client #ig/ref :db/client} :db/client {:server-type :cloud :endpoint "e" :proxy-port 8182}}"#,
        Map("db%2Fclient", "e", &[":proxy-port"]),
    ),
    (
        r#"{:duct.profile/base {:duct.module.datomic/client {:system "s" :endpoint "e"}} :duct.profile/dev #duct/include "dev"}"#,
        Map("duct.profile%2Fbase/duct.module.datomic%2Fclient", "e", &[]),
    ),
    (
        r#"{[:duct/const :app/db] {:endpoint "e"}}"#,
        Map("[:duct%2Fconst :app%2Fdb]", "e", &[]),
    ),
    // What is no configuration.
    (r#"(ns app.config)"#, Refused("not a map")),
    (r#"[{:endpoint "e"}]"#, Refused("not a map")),
    (r#"{:endpoint "e""#, Refused("never closed")),
    (r#"{:endpoint "e"]"#, Refused("where } was expected")),
    (r#"{:endpoint "a" :endpoint "b"}"#, Refused("twice")),
    (r#"{:endpoint #(str "x")}"#, Refused("# begins nothing")),
    (r#"{:endpoint #"regex"}"#, Refused("# begins nothing")),
];

#[test]
fn every_shape_is_read_or_refused_as_expected() {
    assert!(SHAPES.len() >= 40);
    for (source, expected) in SHAPES {
        let read = read_client_map(source, None);
        match (expected, read) {
            (Refused(words), Err(error)) => {
                assert!(error.what.contains(words), "{source}: {error}");
                assert!(patch(source, None, "n").is_err());
            }
            (Map(path, endpoint, removed), Ok(map)) => {
                assert_eq!(map.path, *path, "{source}");
                let found = match &map.endpoint {
                    None => "-",
                    Some(Err(_)) => "!",
                    Some(Ok(text)) => text,
                };
                assert_eq!(found, *endpoint, "{source}");
                let done = patch(source, None, OURS).unwrap();
                assert_eq!(done.removed, *removed, "{source}");
                let again = read_client_map(&done.text, None).unwrap();
                assert_eq!(again.endpoint, Some(Ok(OURS.to_owned())), "{source}");
                assert_eq!((&again.path, again.proxy_keys), (&map.path, vec![]));
                // The same map, found by its path, and the same result.
                if !path.is_empty() {
                    assert_eq!(
                        read_client_map(source, Some(path)).unwrap(),
                        map,
                        "{source}"
                    );
                }
                assert_eq!(patch(&done.text, None, OURS).unwrap().text, done.text);
            }
            (Map(..), Err(error)) => panic!("{source}: {error}"),
            (Refused(_), Ok(map)) => panic!("{source} was read as {map:?}"),
        }
    }
}
