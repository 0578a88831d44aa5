//! `doctor --message TEXT`: what the application printed, explained. Pure.
//!
//! These symptoms show in the Datomic client and nowhere else. The text is looked for words that each message has,
//! whatever its case; the most particular row wins. What is not known is said to be not known.

/// One message of the application.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, for programs and the guide.
    pub id: &'static str,
    /// Lower-case words; the message holds all of one of these sets.
    words: &'static [&'static [&'static str]],
    /// As the application prints it.
    pub message: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Why, the likeliest first.
    pub causes: &'static [&'static str],
    /// What to do.
    pub steps: &'static [&'static str],
}

macro_rules! rows {
    ($($id:ident [$([$($word:literal),+]),+] $message:literal $meaning:literal [$($cause:literal),* $(,)?] [$($step:literal),* $(,)?])*) => {
        /// All of them, the particular before the general.
        pub static ROWS: &[Row] = &[$(Row {
            id: stringify!($id),
            words: &[$(&[$($word),+]),+],
            message: $message,
            meaning: $meaning,
            causes: &[$($cause),*],
            steps: &[$($step),*],
        }),*];
    };
}

rows! {
SOCKS_TUNNEL [["socks4", "tunnel"], ["socks5", "tunnel"], ["socks", "tunnel failed"]] "SOCKS4 tunnel failed, connection closed"
  "the client talks to a SOCKS proxy, and what it reached is none, or the proxy could not go on"
  ["the client map still has :proxy-port while entryway, a plain TCP port, listens there", "an old ssh tunnel whose far side cannot reach the entry point (ssh said: administratively prohibited)"]
  ["take :proxy-port out of the client map and set :endpoint \"http://localhost:8182\" (entryway snippet edn prints it)", "end old tunnels: entryway doctor names who holds port 8182"]
PROHIBITED [["administratively prohibited"]] "channel 2: open failed: administratively prohibited"
  "ssh's far side (the bastion) refused to connect to the entry point"
  ["the entry point's name does not resolve on the bastion, or is misspelt", "sshd on the bastion does not allow forwarding (AllowTcpForwarding)"]
  ["on the bastion: dig NAME, and curl http://NAME:8182/", "entryway on a machine inside the VPC or its VPN needs no bastion: entryway doctor --peering --system SYSTEM --region REGION"]
KEYFILE [["forbidden to read keyfile"], ["keyfile", "forbidden"], ["keyfile", "access denied"]] "Forbidden to read keyfile at s3://…"
  "the network is fine: the entry point answered; reading the key from the system's bucket was refused"
  ["the application's AWS credentials or role may not GetObject on the bucket", "the endpoint is another system's: the bucket in the message is not the one that was meant"]
  ["aws sts get-caller-identity, with the application's environment", "aws s3 ls s3://THE_PATH_IN_THE_MESSAGE", "entryway doctor: the stage identity prints the bucket that each address answers with"]
LOADING [["loading database"]] "Loading database"
  "not a fault of the network: the node has not loaded the database yet; the client may try again"
  ["a node restarted or was replaced (deploy, scaling)", "the database was created a moment ago", "a failover led to a node that had not used this database"]
  ["retry with a pause; it ends by itself within a minute or so", "a steady stream of it: CodeDeploy → Deployments, EC2 → Instances of the system"]
OPS_LIMIT [["ops limit reached"]] "Ops limit reached: 64"
  "the application's own client said so, before anything was sent: 64 operations were already waiting"
  ["more parallel calls than :pending-ops-limit (64) allows", "calls take long (slow queries, slow network), so that they pile up"]
  ["limit the parallel calls, or raise :pending-ops-limit and :max-connections-per-destination in the client map", "latency: entryway status shows connect times; the system's dashboard shows query times"]
QUERY_GROUP [["expected string for :query-group"], ["query-group", "expected string"]] "Expected string for :query-group"
  "the client map, not the network: an old client wants :query-group"
  ["client-cloud before 0.8.63 (August 2018)"]
  ["update com.datomic/client-cloud, or set :query-group to the system's name"]
AUTH_PATH [["s3-auth-path"]] "Invalid response received connecting to system, expected to find s3-auth-path in response: …"
  "something answered on the endpoint that is not Datomic's entry point"
  ["a web page: captive portal, company proxy, another web server", "a load balancer's error page (502, 503, 504): the nodes are down or starting", "another service on this host and port"]
  ["entryway doctor with the same target: stage http shows who answers and with what", "curl -i http://localhost:8182/ must print {:s3-auth-path \"…\"}"]
UNKNOWN_HOST [["unknownhostexception"], ["unknown host"], ["nodename nor servname"], ["name or service not known"], ["unresolved address"], ["temporary failure in name resolution"]] "java.net.UnknownHostException: entry.SYSTEM.REGION.datomic.net"
  "the application resolves the entry point's name itself, and cannot; the client does not retry this"
  ["the client map's :endpoint is the entry point's name, not entryway's port", "DNS: the VPC is not associated with the system's hosted zone, or the VPN is down"]
  ["set :endpoint \"http://localhost:8182\": entryway resolves, and keeps the last good answer", "entryway doctor --peering --system SYSTEM --region REGION: stages resolver and names tell why"]
TLS [["sslexception"], ["sslhandshake"], ["unsupported or unrecognized ssl"], ["pkix path"], ["not an ssl/tls record"]] "javax.net.ssl.SSLException: Unsupported or unrecognized SSL message"
  "one side speaks TLS, the other plain HTTP"
  [":endpoint begins with https:// but leads to entryway's or Datomic's plain port", "a company proxy breaks TLS open (PKIX path building failed)"]
  [":endpoint \"http://localhost:8182\", with http, for Datomic Cloud's private port", "an API Gateway is used directly with https, without entryway"]
BUSY [["http 429"], ["status 429"], ["too many requests"], ["anomalies/busy"], ["throttled"]] "busy (HTTP 429)"
  "not a fault of the network: the node is over its capacity, and the client has already backed off three times"
  ["more load than the nodes can take", "one expensive query that holds the node"]
  ["CloudWatch → dashboard of the system: HttpEndpointThrottled, CPU", "more or larger nodes, a query group for heavy readers, fewer parallel calls"]
FORBIDDEN [["anomalies/forbidden"], ["http 403"], ["status 403"]] "forbidden (HTTP 403)"
  "the node, or an API Gateway, refused the request; the network is fine"
  ["credentials of another account or system", "the clock is wrong, or something on the way changes the Host header (entryway does not)", "the endpoint is an API Gateway stage with a policy"]
  ["aws sts get-caller-identity, with the application's environment", "entryway doctor: stages http and identity"]
CLIENT_TIMEOUT [["total timeout elapsed"], ["datomic client timeout"], ["anomalies/interrupted"], ["timeoutexception"], ["request timed out"], ["idle timeout expired"]] "Total timeout elapsed / Datomic Client Timeout"
  "no answer within the client's :timeout (60 s by default); from the message alone the cause cannot be told"
  ["packets vanish: security group, accept pending, VPN down, a lost zone (without entryway: until the kernel gives up)", "a slow query or an overloaded node", "entryway held the connection because no address was up"]
  ["entryway doctor: does the network answer now?", "entryway status: were addresses down? The log's conn.close lines of that time name the reason", "if all is well there: the query itself, or CPU on the system's dashboard"]
CONN_LIMIT [["max", "requests queued"], ["connection pool", "exhausted"]] "Max requests queued per destination"
  "the application's own client ran out of connections; nothing was sent"
  ["more parallel calls than the client map allows"]
  ["limit the parallel calls, or raise :max-connections-per-destination"]
CONNECT [["unable to connect"], ["connection refused"], ["connectexception"], ["econnrefused"]] "Unable to connect to localhost:8182 … Connection refused"
  "nothing listens where the application connects to"
  ["entryway (or the tunnel) does not run, or not yet", "it listens on another port or in another container: localhost is each container's own", "when_all_down = refuse, and no address is up"]
  ["entryway status; start it: entryway run …, or as a wrapper: entryway run … -- CMD, which waits until it is ready", "in a pod both containers share localhost; in docker compose they do not: network_mode \"service:…\"", "entryway doctor: stage port tells who listens"]
BROKEN [["connection reset"], ["broken pipe"], ["eofexception"], ["eof reached"], ["premature eof"], ["closedchannel"], ["http/1.1 header parser received no bytes"], ["connection closed"]] "java.io.IOException: Connection reset by peer / EofException"
  "an open connection ended while it was used; the client retries reads by itself, transact never"
  ["a node or zone went away", "an idle limit on the way: an ALB closes after 60 s, a VPC endpoint forgets after 350 s", "no address was up: entryway closed the connection after hold_timeout"]
  ["the log's conn.close line of that moment names who closed and why, with a hint", "entryway status and entryway doctor"]
UNAVAILABLE [["anomalies/unavailable"], ["service unavailable"], ["http 503"], ["http 502"], ["http 504"], ["status 503"], ["bad gateway"], ["gateway timeout"]] "unavailable (HTTP 502, 503, 504)"
  "the load balancer or a node says that it cannot serve now; the client retries reads for a minute"
  ["a deploy or restart: nodes go one at a time; a group of one is down meanwhile", "the compute group has no healthy node"]
  ["entryway doctor: stage http tells 502, 503 and 504 apart", "EC2 → Target groups → Targets; CodeDeploy → Deployments"]
BUSY_WORD [["busy"]] "busy"
  "probably the node is over its capacity, and the client has already backed off"
  ["more load than the nodes can take"]
  ["CloudWatch → dashboard of the system: HttpEndpointThrottled, CPU"]
}

/// The row of a message, if it is known.
pub fn explain(text: &str) -> Option<&'static Row> {
    // Printed messages come wrapped: any white space is one blank.
    let text = text
        .to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    ROWS.iter().find(|row| {
        row.words
            .iter()
            .any(|set| set.iter().all(|word| has(&text, word)))
    })
}

/// Whether a text holds a word; short ones only as a whole.
fn has(text: &str, word: &str) -> bool {
    if word.len() > 5 {
        return text.contains(word);
    }
    let whole = |at: usize| {
        let inside = |c: char| c.is_ascii_alphanumeric();
        !text[..at].chars().next_back().is_some_and(inside)
            && !text[at + word.len()..].chars().next().is_some_and(inside)
    };
    text.match_indices(word).any(|(at, _)| whole(at))
}

/// What to say about a message that is not known.
pub const UNKNOWN: &str = "this message is not in our list, so we do not know what it means; \
    `entryway doctor` without --message looks at the network itself, and the log's conn.close lines say how connections ended";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_knows_its_own_message_in_any_case() {
        for row in ROWS {
            for text in [
                row.message.to_owned(),
                row.message.to_uppercase(),
                row.message.replace(' ', "\n\t "),
            ] {
                assert_eq!(explain(&text).map(|row| row.id), Some(row.id), "{text}");
            }
            assert!(!row.causes.is_empty() && !row.steps.is_empty());
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
                "java.io.IOException: SOCKS4 tunnel failed, connection closed",
                "SOCKS_TUNNEL",
            ),
            ("Total timeout elapsed", "CLIENT_TIMEOUT"),
            ("Datomic Client Timeout", "CLIENT_TIMEOUT"),
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
        ] {
            assert_eq!(explain(text).map(|row| row.id), Some(id), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for text in [
            "",
            "NullPointerException",
            "busybox",
            "a queue",
            "\u{0}\u{ffff}",
        ] {
            assert_eq!(explain(text), None, "{text}");
        }
    }
}
