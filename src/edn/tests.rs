use proptest::prelude::*;

use super::*;

const PLAIN: &str = r#"{:server-type :cloud, :region "us-east-1" :system "prod"
 :query-group "analytics" :endpoint "http://vpce-1.example:8182"}"#;

#[test]
fn reads_a_client_map() {
    let map = read_client_map(PLAIN).unwrap();
    let expected = ClientMap {
        endpoint: Some("http://vpce-1.example:8182".to_owned()),
        region: Some("us-east-1".to_owned()),
        system: Some("prod".to_owned()),
        server_type: Some("cloud".to_owned()),
        query_group: Some("analytics".to_owned()),
    };
    assert_eq!(map, expected);
}

#[test]
fn reads_past_everything_edn_has() {
    let text = "\u{feff}; :endpoint \"comment\"\r\n#_ {:endpoint \"dropped\"}\r\n\
        {:a [1 2.5M 3N 1/2 ##Inf \\{ \\\" \\newline \"}\\\"{\"] #_ #_ :endpoint \"dropped\"\r\n\
        :b #{1 2} :c #:db{:endpoint \"nested\"} :d #inst \"2020-01-01\" :e ^{:m 1} (x y)\r\n\
        :endpoint #_\"dropped\" \"host:8182\" ; tail }\r\n :query-group #env QG :region nil}\r\n} rest";
    let map = read_client_map(text).unwrap();
    assert_eq!(map.endpoint.as_deref(), Some("host:8182"));
    assert_eq!((map.region, map.query_group), (None, None));
    let patched = patch_endpoint(text, "http://localhost:8182").unwrap();
    assert_eq!(
        patched,
        text.replace("\"host:8182\"", "\"http://localhost:8182\"")
    );
}

#[test]
fn patches_only_the_top_level_endpoint() {
    for (text, expected) in [
        ("{:endpoint \"a\"}", "{:endpoint \"n\"}"),
        ("{:endpoint\"a\"}", "{:endpoint\"n\"}"),
        ("{:endpoint #env ENDPOINT,:x 1}", "{:endpoint \"n\",:x 1}"),
        ("{:endpoint #or [#env A \"b\"]}", "{:endpoint \"n\"}"),
        ("{:endpoint nil}", "{:endpoint \"n\"}"),
        (
            "{:a {:endpoint \"a\"} #_#_:endpoint \"b\" :endpoint ;c\n \"d\"}",
            "{:a {:endpoint \"a\"} #_#_:endpoint \"b\" :endpoint ;c\n \"n\"}",
        ),
        (
            "{\":endpoint\" \"a\" :x/endpoint \"b\" :endpoint \"c\"}",
            "{\":endpoint\" \"a\" :x/endpoint \"b\" :endpoint \"n\"}",
        ),
    ] {
        assert_eq!(patch_endpoint(text, "n").unwrap(), expected);
    }
    assert_eq!(
        patch_endpoint("{:endpoint 1}", "a\"\\\n").unwrap(),
        "{:endpoint \"a\\\"\\\\\\n\"}"
    );
}

#[test]
fn errors_say_where_and_what() {
    for (text, place, words) in [
        ("", (1, 1), "nothing in it"),
        ("; only\n", (2, 1), "nothing in it"),
        ("[1 2]", (1, 1), "not a map"),
        ("(defn x [])", (1, 1), "not a map"),
        ("<html>", (1, 1), "not a map"),
        ("#:db{:endpoint \"x\"}", (1, 1), "namespaced"),
        ("{:endpoint \"x\"", (1, 1), "never closed"),
        ("{:a [1\n  2}", (2, 4), "} where ] was expected"),
        ("{:endpoint}", (1, 2), "without a value"),
        ("{:a 1\n :endpoint \"x}", (2, 12), "never ends"),
        ("{:endpoint :x}", (1, 12), "not a string"),
        ("{:endpoint #env X}", (1, 12), "only the application"),
        ("{:region \"\\q\"}", (1, 10), "cannot be read"),
        ("{:endpoint \"a\" :endpoint \"b\"}", (1, 16), "twice"),
        ("{:x #}", (1, 5), "# begins nothing"),
        ("{:x \\", (1, 5), "without its character"),
        ("}", (1, 1), "without an opening"),
        ("{:x 1}", (1, 1), "none of :endpoint"),
        ("\u{feff}{:é \"", (1, 5), "never ends"),
        ("{:datomic {:endpoint \"x\"}}", (1, 1), "under :datomic"),
    ] {
        let error = read_client_map(text).unwrap_err();
        assert_eq!((error.line, error.column), place, "{text:?}: {error}");
        assert!(error.what.contains(words), "{text:?}: {error}");
    }
    let none = patch_endpoint("{:region \"r\" :db {:endpoint \"x\"}}", "n").unwrap_err();
    assert!(
        none.what.contains("no :endpoint; the client map seems"),
        "{none}"
    );
}

#[test]
fn huge_and_deep_texts_are_refused_quickly() {
    let huge = format!("{{:endpoint \"{}\"}}", "x".repeat(LARGEST));
    assert!(read_client_map(&huge).unwrap_err().what.contains("1 MiB"));
    for deep in ["[", "{", "#_", "#a ", "^", "(", "#{"] {
        let text = format!("{{:a {}", deep.repeat(100_000));
        let error = read_client_map(&text).unwrap_err();
        assert!(error.what.contains("deeper"), "{deep}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}|[{}\\[\\]()#_^\\\\\":; a\n]{0,60}") {
        let _ = read_client_map(&text);
        let _ = patch_endpoint(&text, "n");
    }

    #[test]
    fn a_patch_changes_one_value_and_nothing_else(
        before in "( |,|\n|;[a:{}\"]{0,9}\n|#_:endpoint |:x \\{:endpoint \"y\"\\} |\"k\" \\[1 2\\] ){0,6}",
        old in "[a-z:/{}; ]{0,12}",
        after in "( |,|\n|;[a:{}\"]{0,9}\n|#_\\{:endpoint 1\\} |:z \\{:endpoint \"y\"\\} ){0,6}",
        new in "\\PC{0,20}",
    ) {
        // Keys may repeat in what is generated; the scanner minds only the ones it is asked for.
        let head = format!("{{{before}:endpoint ");
        let text = format!("{head}\"{old}\"{after}}}");
        prop_assert_eq!(read_client_map(&text).unwrap().endpoint, Some(old));
        let patched = patch_endpoint(&text, &new).unwrap();
        prop_assert_eq!(&patched, &format!("{head}{}{after}}}", quote(&new)));
        prop_assert_eq!(read_client_map(&patched).unwrap().endpoint, Some(new));
    }
}
