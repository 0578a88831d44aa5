use super::*;

fn first(text: &str) -> Option<&'static str> {
    explain(text).first().map(|row| row.id)
}

#[test]
fn every_row_matches_its_own_message_in_any_case_and_wrapping() {
    for row in ROWS {
        for text in [
            row.message.to_owned(),
            row.message.to_uppercase(),
            row.message.replace(' ', "\n\t "),
        ] {
            assert_eq!(first(&text), Some(row.id), "{text}");
        }
        assert!(
            !row.causes.is_empty() && !row.steps.is_empty(),
            "{}",
            row.id
        );
    }
}

#[test]
fn messages_as_applications_print_them() {
    for (text, id) in [
        (
            "Unable to connect to localhost:8182 {:cognitect.anomalies/category :cognitect.anomalies/unavailable, :cognitect.anomalies/message \"Connection refused\"}",
            "CONNECT",
        ),
        (
            "Execution error (ExceptionInfo) at datomic.client.impl.cloud/get-s3-auth-path (cloud.clj:179).\nUnable to connect to http://localhost:8182",
            "CONNECT",
        ),
        (
            "Execution error (ExceptionInfo): Forbidden to read keyfile at s3://b/prod/datomic/access/dbs/catalog/read/.keys. Make sure that your endpoint is correct",
            "KEYFILE",
        ),
        (
            "clojure.lang.ExceptionInfo: Loading database {:cognitect.anomalies/category :cognitect.anomalies/unavailable}",
            "LOADING",
        ),
        (
            "Ops limit reached: 64 {:cognitect.anomalies/category :cognitect.anomalies/busy}",
            "OPS_LIMIT",
        ),
        (
            "channel 3: open failed: administratively prohibited: open failed",
            "PROHIBITED",
        ),
        (
            "channel 3: open failed: connect failed: Connection timed out",
            "CHANNEL_FAILED",
        ),
        (
            "java.io.IOException: SOCKS4 tunnel failed, connection closed",
            "SOCKS_TUNNEL",
        ),
        ("Total timeout elapsed", "CLIENT_TIMEOUT"),
        ("Total timeout 15000 ms elapsed", "CLIENT_TIMEOUT"),
        ("Datomic Client Timeout", "CLIENT_TIMEOUT"),
        (
            "java.nio.channels.UnresolvedAddressException",
            "UNKNOWN_HOST",
        ),
        (
            "java.net.SocketTimeoutException: connect timed out",
            "CONNECT_TIMEOUT",
        ),
        ("Expected string for :query-group", "QUERY_GROUP"),
        ("busy", "BUSY_WORD"),
        (
            "{:cognitect.anomalies/category :cognitect.anomalies/busy}",
            "BUSY",
        ),
        (
            "java.net.UnknownHostException: entry.prod.us-east-1.datomic.net",
            "UNKNOWN_HOST",
        ),
        ("org.eclipse.jetty.io.EofException: Broken pipe", "BROKEN"),
        (
            "Invalid response received connecting to system, expected to find s3-auth-path in response: <html>",
            "AUTH_PATH",
        ),
        (
            "An error occurred (AccessDeniedException) when calling the GetResources operation: User: arn:aws:iam::1:user/u is not authorized to perform: tag:GetResources",
            "GET_RESOURCES",
        ),
        (
            "Export prod-VpcEndpointServiceName cannot be deleted as it is in use by my-endpoint",
            "ENDPOINT_EXPORT",
        ),
        (
            "java.lang.AssertionError: Assert failed: cfg",
            "CLIENT_MAP_NIL",
        ),
        (
            "Unable to connect to localhost:8182 {:cognitect.anomalies/message \"Connect Timeout\"}",
            "CONNECT_TIMEOUT",
        ),
        (
            "<html><head><title>504 Gateway Time-out</title></head>",
            "ALB_504",
        ),
    ] {
        assert_eq!(first(text), Some(id), "{text}");
    }
}

#[test]
fn a_stack_trace_is_explained_by_its_message_and_its_cause() {
    let trace = "Exception in thread \"main\" clojure.lang.ExceptionInfo: Unable to connect to system {:config {:server-type :cloud}}\n\
        \tat datomic.client.impl.cloud$get_s3_auth_path.invokeStatic(cloud.clj:179)\n\
        \tat datomic.client.impl.cloud$create_client.invoke(cloud.clj:214)\n\
        \tat org.eclipse.jetty.io.ManagedSelector.processConnect(ManagedSelector.java:300)\n\
        \t... 12 more\n\
        Caused by: javax.net.ssl.SSLException: Unsupported or unrecognized SSL message\n\
        \tat java.base/sun.security.ssl.SSLSocketInputRecord.handleUnknownRecord(SSLSocketInputRecord.java:451)\n";
    assert_eq!(first(trace), Some("TLS"));
    let repl = "#error {\n :cause \"Forbidden to read keyfile at s3://b/p/.keys\"\n :trace\n \
        [[datomic.client.impl.cloud$get_s3_auth_path invokeStatic \"cloud.clj\" 178]\n  \
        [java.net.ConnectException <init> \"ConnectException.java\" 12]]}";
    assert_eq!(first(repl), Some("KEYFILE"));
    assert_eq!(explain(repl).len(), 1, "frames say nothing about the cause");
}

#[test]
fn in_a_log_the_specific_cause_comes_before_what_follows_from_it() {
    let mut log = String::new();
    for _ in 0..200 {
        log.push_str("2026-11-29 INFO app - request served in 12 ms\n");
    }
    log.push_str("2026-11-29 ERROR app - Connection reset by peer\n");
    log.push_str("2026-11-29 ERROR app - com.amazonaws.SdkClientException: Unable to load AWS credentials from any provider in the chain\n");
    let rows: Vec<_> = explain(&log).iter().map(|row| row.id).collect();
    assert_eq!(rows, ["NO_CREDENTIALS", "BROKEN"]);
    // Words of one set that stand in unrelated lines are no message.
    let apart = format!("max {} requests queued", "x ".repeat(WINDOW));
    assert_eq!(first(&apart), None);
}

#[test]
fn what_is_not_known_is_not_guessed() {
    for text in [
        "",
        "NullPointerException",
        "busybox",
        "a queue",
        "\u{0}\u{ffff}",
        "at",
        " at (",
    ] {
        assert_eq!(first(text), None, "{text}");
    }
}
