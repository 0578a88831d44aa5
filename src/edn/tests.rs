use proptest::prelude::*;

use super::*;

mod shapes;

const PLAIN: &str = r#"{:server-type :cloud, :region "us-east-1" :system "prod"
 :query-group "analytics" :endpoint "http://vpce-1.example:8182"}"#;

const OURS: &str = "http://localhost:8182";

fn read(text: &str) -> Result<ClientMap, EdnError> {
    read_client_map(text, None)
}

fn patched(text: &str) -> String {
    patch(text, None, "n").unwrap().text
}

fn text(value: &MapValue) -> Option<&str> {
    value.as_ref().map(|value| value.as_deref().unwrap())
}

#[test]
fn reads_a_client_map() {
    let map = read(PLAIN).unwrap();
    let plain = |text: &str| Some(Ok(text.to_owned()));
    let expected = ClientMap {
        path: String::new(),
        endpoint: plain("http://vpce-1.example:8182"),
        region: plain("us-east-1"),
        system: plain("prod"),
        server_type: Some("cloud".to_owned()),
        query_group: plain("analytics"),
        proxy_keys: Vec::new(),
    };
    assert_eq!(map, expected);
}

#[test]
fn reads_past_everything_edn_has() {
    let source = "\u{feff}; :endpoint \"comment\"\r\n#_ {:endpoint \"dropped\"}\r\n\
        {:a [1 2.5M 3N 1/2 ##Inf \\{ \\\" \\newline \"}\\\"{\"] #_ #_ :endpoint \"dropped\"\r\n\
        :b #{1 2} :c #:db{:endpoint \"nested\"} :d #inst \"2020-01-01\" :e ^{:m 1} (x y)\r\n\
        :endpoint #_\"dropped\" \"host:8182\" ; tail }\r\n :query-group #env QG :region nil}\r\n} rest";
    let map = read(source).unwrap();
    assert_eq!(text(&map.endpoint), Some("host:8182"));
    assert_eq!(map.region, None);
    assert!(map.query_group.unwrap().is_err());
    let patched = patch(source, None, OURS).unwrap();
    assert_eq!(patched.text, source.replace("host:8182", OURS));
    assert_eq!(
        patched.endpoint,
        EndpointChange::Replaced("\"host:8182\"".to_owned())
    );
}

#[test]
fn patches_the_endpoint_and_nothing_else() {
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
        // Inserted where it is missing: on a line of its own where the last entry has one.
        ("{:system \"s\"}", "{:system \"s\" :endpoint \"n\"}"),
        (
            "{:system \"s\"\n :region \"r\" ; comment\n }",
            "{:system \"s\"\n :region \"r\"\n :endpoint \"n\" ; comment\n }",
        ),
        (
            "#:x{:_/system \"s\"}",
            "#:x{:_/system \"s\" :_/endpoint \"n\"}",
        ),
    ] {
        assert_eq!(patched(text), expected);
        assert_eq!(patched(expected), expected);
    }
    assert_eq!(
        patch("{:endpoint 1}", None, "a\"\\\n").unwrap().text,
        "{:endpoint \"a\\\"\\\\\\n\"}"
    );
}

#[test]
fn patches_the_proxy_keys_away_and_keeps_comments() {
    for (text, expected) in [
        ("{:endpoint \"a\" :proxy-port 8182}", "{:endpoint \"n\"}"),
        ("{:proxy-port 8182 :endpoint \"a\"}", "{:endpoint \"n\"}"),
        (
            "{:endpoint \"a\"\n :proxy-port 8182\n :x 1}",
            "{:endpoint \"n\"\n :x 1}",
        ),
        (
            "{:endpoint \"a\",:proxy-port 8182,:x 1}",
            "{:endpoint \"n\",:x 1}",
        ),
        (
            "{:endpoint \"a\" :proxy-host \"h\":proxy-port 8182 :x 1}",
            "{:endpoint \"n\" :x 1}",
        ),
        (
            "{:endpoint \"a\" :proxy-host \"h\":x 1}",
            "{:endpoint \"n\" :x 1}",
        ),
        (
            "{:proxy-host \"h\" :proxy-port 1 :endpoint \"a\"}",
            "{:endpoint \"n\"}",
        ),
        (
            "{:endpoint \"a\"\n ; the tunnel\n :proxy-port 8182\n}",
            "{:endpoint \"n\"\n ; the tunnel\n \n}",
        ),
        (
            "{:endpoint \"a\"\n ; the tunnel\n :proxy-port 8182\n :x 1}",
            "{:endpoint \"n\"\n ; the tunnel\n :x 1}",
        ),
        (
            "{:endpoint \"a\" :proxy-port ; old\n #long \"8182\" :x 1}",
            "{:endpoint \"n\" ; old\n :x 1}",
        ),
        (
            "{:endpoint \"a\" :proxy-port 8182 ; tunnel\n :x 1}",
            "{:endpoint \"n\" ; tunnel\n :x 1}",
        ),
        (
            "{:system \"s\" :proxy-port 8182}",
            "{:system \"s\" :endpoint \"n\"}",
        ),
        (
            "{:a {:proxy-port 1} :endpoint \"a\" :proxy {:host \"x\"}}",
            "{:a {:proxy-port 1} :endpoint \"n\"}",
        ),
    ] {
        let once = patched(text);
        assert_eq!(once, expected, "{text}");
        assert_eq!(patched(&once), once, "{text}");
        assert!(read(&once).unwrap().proxy_keys.is_empty());
    }
    let done = patch("{:proxy-port 1 :system \"s\" :proxy-host \"h\"}", None, "n").unwrap();
    assert_eq!(done.removed, [":proxy-port", ":proxy-host"]);
    assert_eq!(done.endpoint, EndpointChange::Inserted);
}

#[test]
fn a_path_names_the_map() {
    let source = "{:app {:db/main {:endpoint \"a\"} \"x\" [1 {:system \"s\"}]}}";
    for (path, endpoint) in [
        ("app/db%2Fmain", Some("a")),
        (":app/:db%2Fmain", Some("a")),
        ("app/x/1", None),
    ] {
        let map = read_client_map(source, Some(path)).unwrap();
        assert_eq!(text(&map.endpoint), endpoint, "{path}");
    }
    let shown = read_client_map(source, Some("app/x/1")).unwrap().path;
    assert_eq!(shown, "app/x/1");
    for (path, words) in [
        ("nope", "no key `nope`; the keys are :app"),
        ("app/x", "is not a map"),
        ("app/x/0", "no index of a map"),
        ("app/db%2Fmain/endpoint/z", "this is no map"),
        ("", "empty key"),
        ("app//x", "empty key"),
        ("%ff", "not UTF-8"),
    ] {
        let error = read_client_map(source, Some(path)).unwrap_err();
        assert!(error.what.contains(words), "{path}: {error}");
    }
    let several = read(source).unwrap_err();
    assert!(
        several.what.contains("#app/db%2Fmain #app/x/1"),
        "{several}"
    );
    let twice = "{:a {:system \"s\"} :a 1}";
    assert!(
        read_client_map(twice, Some("a"))
            .unwrap_err()
            .what
            .contains("twice")
    );
}

#[test]
fn errors_say_where_and_what() {
    for (text, position, words) in [
        ("", (1, 1), "nothing in it"),
        ("; only\n", (2, 1), "nothing in it"),
        ("[1 2]", (1, 1), "not a map"),
        ("(defn x [])", (1, 1), "not a map"),
        ("<html>", (1, 1), "not a map"),
        ("#{1}", (1, 1), "not a map"),
        ("{:endpoint \"x\"", (1, 1), "never closed"),
        ("{:a [1\n  2}", (2, 4), "} where ] was expected"),
        ("{:endpoint}", (1, 2), "without a value"),
        ("{:a 1\n :endpoint \"x}", (2, 12), "never ends"),
        ("{:endpoint \"a\" :endpoint \"b\"}", (1, 16), "twice"),
        ("{:x #}", (1, 5), "# begins nothing"),
        ("{:x #:y 1}", (1, 5), "not followed by a map"),
        ("{:x \\", (1, 5), "without its character"),
        ("}", (1, 1), "without an opening"),
        ("{:x 1}", (1, 1), "no map in it"),
        ("#:db{:endpoint \"x\"}", (1, 1), "no map in it"),
        ("\u{feff}{:é \"", (1, 5), "never ends"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!((error.line, error.column), position, "{text:?}: {error}");
        assert!(error.what.contains(words), "{text:?}: {error}");
    }
    for (text, position, words) in [
        ("{:endpoint :x}", (1, 12), "not a string"),
        (
            "{:endpoint #env X}",
            (1, 12),
            "is #env X: what #env stands for",
        ),
        ("{:endpoint {:a 1}}", (1, 12), "not a string"),
        ("{:endpoint \"\\q\"}", (1, 12), "cannot be read"),
    ] {
        let error = read(text).unwrap().endpoint.unwrap().unwrap_err();
        assert_eq!((error.line, error.column), position, "{text:?}: {error}");
        assert!(error.what.contains(words), "{text:?}: {error}");
    }
}

#[test]
fn huge_and_deep_texts_are_refused_quickly() {
    let huge = format!("{{:endpoint \"{}\"}}", "x".repeat(MAX_BYTES));
    assert!(read(&huge).unwrap_err().what.contains("1 MiB"));
    for deep in ["[", "{", "#_", "#a ", "^", "(", "#{"] {
        let text = format!("{{:a {}", deep.repeat(100_000));
        let error = read(&text).unwrap_err();
        assert!(error.what.contains("deeper"), "{deep}: {error}");
    }
}

#[test]
fn only_regular_files_of_text_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("config#1.edn"), PLAIN).unwrap();
    std::fs::write(path("nested.edn"), format!("{{:db {PLAIN}}}")).unwrap();
    std::fs::write(path("bytes.edn"), b"{:a \xff}").unwrap();
    std::fs::write(path("long.edn"), vec![b' '; MAX_BYTES + 1]).unwrap();
    std::os::unix::fs::symlink(path("loop"), path("loop")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(path("fifo"))
        .status();
    assert!(made.unwrap().success());
    let load = |name: &str| load_client_map(path(name).to_str().unwrap());
    // A # in a file's own name is no path.
    assert_eq!(load("config#1.edn").unwrap().path, "");
    assert_eq!(load("nested.edn#db").unwrap().path, "db");
    assert_eq!(load("nested.edn").unwrap().path, "db");
    for (name, words) in [
        ("missing.edn", "No such file"),
        ("bytes.edn", "not UTF-8"),
        ("long.edn", "longer than"),
        ("loop", "symbolic link"),
        ("fifo", "pipe, socket or device"),
        (".", "directory"),
        ("nested.edn#nope", "nested.edn:1:1: there is no key"),
    ] {
        let error = load(name).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}|[{}\\[\\]()#_^\\\\\":; a\n]{0,60}") {
        let _ = read(&text);
        let _ = patch(&text, None, "n");
        let _ = read_client_map(&text, Some("a/0"));
    }

    /// A map nested in something else: patched it gives our endpoint, and what stood around the value stays.
    #[test]
    fn a_patch_changes_one_value_and_nothing_else(
        outer in "( |,|\n|;[a:{}\"]{0,9}\n|#_:x |:x \\{:y \"y\"\\} |\"k\" \\[1 2\\] ){0,4}",
        before in "( |,|\n|;[a:{}\"]{0,9}\n|#_:endpoint |:x \\{:endpoint \"y\"\\} |\"k\" \\[1 2\\] ){0,6}",
        old in "[a-z:/{}; ]{0,12}",
        after in "( |,|\n|;[a:{}\"]{0,9}\n|#_\\{:endpoint 1\\} |:z \\{:endpoint \"y\"\\} ){0,6}",
        new in "\\PC{0,20}",
        nested in any::<bool>(),
    ) {
        // Keys may repeat in what is generated; only the ones that are asked for must not.
        let (front, back) = if nested { (format!("{{{outer}:db #tag "), "}") } else { (String::new(), "") };
        let head = format!("{front}{{{before}:endpoint ");
        let text = format!("{head}\"{old}\"{after}}}{back}");
        prop_assert_eq!(read(&text).unwrap().endpoint, Some(Ok(old)));
        let patched = patch(&text, None, &new).unwrap().text;
        prop_assert_eq!(&patched, &format!("{head}{}{after}}}{back}", quote(&new)));
        prop_assert_eq!(read(&patched).unwrap().endpoint, Some(Ok(new)));
    }

    /// Proxy keys anywhere between other entries and comments: gone afterwards, with the rest as it was but for blanks.
    #[test]
    fn a_patch_removes_proxy_keys_only(
        parts in proptest::collection::vec(
            prop_oneof![
                Just(" :proxy-port 8182"), Just(",:proxy-host \"h\""), Just("\n:proxy #env P "),
                Just(" ; c :proxy-port 1\n"), Just(" :a 1"), Just(" :b #_x [:proxy-port 1]"), Just(" ,\n"),
            ],
            0..7,
        ),
    ) {
        // Each key at most once, or the map is none.
        let mut seen = std::collections::BTreeSet::new();
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.contains(':') || part.contains(';') || seen.insert(*part)).collect();
        let text = format!("{{:system \"s\"{}}}", parts.concat());
        let done = patch(&text, None, "n").unwrap();
        prop_assert_eq!(done.removed.len(), parts.iter().filter(|part| part.trim_start_matches([' ', ',', '\n']).starts_with(":proxy")).count());
        let map = read(&done.text).unwrap();
        prop_assert!(map.proxy_keys.is_empty());
        prop_assert_eq!(map.endpoint, Some(Ok("n".to_owned())));
        let squeeze = |text: &str| text.replace([' ', ',', '\n'], "");
        let mut rest: String = parts.iter().filter(|part| !part.trim_start_matches([' ', ',', '\n']).starts_with(":proxy")).copied().collect();
        rest.insert_str(0, "{:system \"s\"");
        rest.push('}');
        prop_assert_eq!(squeeze(&done.text).replace(":endpoint\"n\"", ""), squeeze(&rest));
        prop_assert_eq!(&patch(&done.text, None, "n").unwrap().text, &done.text);
    }
}
