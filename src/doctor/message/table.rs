//! The messages themselves, the specific before the general.

use super::Row;

macro_rules! rows {
    ($($id:ident [$([$($word:literal),+]),+] $message:literal $meaning:literal [$($cause:literal),* $(,)?] [$($step:literal),* $(,)?])*) => {
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
// === the class path and the client map: nothing was sent ===
JETTY_VERSIONS [["invocable$invocationtype"], ["noclassdeffounderror", "org/eclipse/jetty"], ["nosuchmethoderror", "org.eclipse.jetty"], ["classnotfoundexception", "org.eclipse.jetty"]]
  "java.lang.NoClassDefFoundError: org/eclipse/jetty/util/thread/Invocable$InvocationType"
  "two versions of Jetty are on the class path; the Datomic client found the one it does not work with"
  ["another dependency (often a web server such as ring-jetty-adapter) brings a Jetty of another version than com.cognitect/http-client"]
  ["clojure -Stree, or mvn dependency:tree, shows who brings org.eclipse.jetty", "give all org.eclipse.jetty artifacts the version that com.datomic/client-cloud asks for", "a client-cloud of 2026 or later uses java.net.http and needs no Jetty"]
JAXB [["javax/xml/bind/datatypeconverter"], ["javax.xml.bind.datatypeconverter"]]
  "java.lang.NoClassDefFoundError: javax/xml/bind/DatatypeConverter"
  "this Java has no JAXB any more (it left the JDK in Java 11), and an old library on the class path needs it"
  ["an old com.datomic/client-cloud or AWS SDK on Java 9 or later"]
  ["update com.datomic/client-cloud", "until then: add javax.xml.bind/jaxb-api 2.3.1 to the dependencies"]
SERVER_TYPE [[":server-type must be"]]
  ":server-type must be :cloud or :peer-server"
  "the client map names a server type that this client library does not know; nothing was sent"
  [":server-type is missing, misspelt, or a string in place of a keyword", "an old library: :ion and :local came later than :cloud and :peer-server", "the library for that type (com.datomic/client-cloud, client-pro, local) is not on the class path"]
  ["for Datomic Cloud through entryway: {:server-type :cloud …}; `entryway snippet edn` prints the map", "update com.datomic/client-cloud"]
CLIENT_MAP_NIL [["assert failed: cfg"]]
  "Assert failed: cfg"
  "the client map is nil: the application did not find its configuration, and nothing was sent"
  ["the resource or file that holds the map (config.edn of the ion starter, for example) is not on the class path", "the function that makes the map returns nil in this environment"]
  ["print what is given to (d/client …)", "entryway snippet edn prints a map for these settings; put it where the application reads it"]
QUERY_GROUP [["expected string for :query-group"], ["query-group", "expected string"]]
  "Expected string for :query-group"
  "the client map, not the network: an old client requires :query-group"
  ["client-cloud before 0.8.63 (August 2018)"]
  ["update com.datomic/client-cloud, or set :query-group to the system's name"]
CLIENT_LIBRARY [["could not locate datomic/client"], ["could not locate datomic__init"], ["filenotfoundexception", "datomic/client/api"]]
  "Could not locate datomic/client/api__init.class, datomic/client/api.clj … on classpath"
  "the Datomic client library is not on the class path"
  ["com.datomic/client-cloud is not among the dependencies, or the REPL was started before it was added"]
  ["add com.datomic/client-cloud (it is on Maven Central) and start the REPL again"]
DEPENDENCY [["could not find artifact com.datomic"], ["could not transfer artifact com.datomic"], ["failed to read artifact descriptor for com.datomic"]]
  "Could not find artifact com.datomic:ion:jar:… in datomic-cloud (s3://datomic-releases-1fc2183a/maven/releases)"
  "the build cannot download a Datomic library; the network to the entry point is not involved"
  ["the repository datomic-cloud (s3://datomic-releases-1fc2183a/maven/releases) is missing from :mvn/repos; ion libraries are only there", "no AWS credentials, or no AWS region, for reading that bucket"]
  ["add the repository; client-cloud itself is on Maven Central", "aws s3 ls s3://datomic-releases-1fc2183a/maven/releases/ with the same environment"]

// === tools and templates around the client ===
BASTION_KEY [["unable to read bastion key"]]
  "Unable to read bastion key"
  "the script `datomic client access` (or datomic-access) could not read the access gateway's SSH key from S3"
  ["the AWS credentials may not read s3://BUCKET/SYSTEM/datomic/access/private-keys/bastion", "there is no access gateway: releases from 884-9095 (July 2021) on have none", "wrong system, region or profile"]
  ["aws sts get-caller-identity, with the same --profile", "a current system needs no gateway: entryway doctor --peering --system SYSTEM --region REGION, inside the VPC or its VPN"]
GET_RESOURCES [["tag:getresources"]]
  "… is not authorized to perform: tag:GetResources (AccessDeniedException)"
  "the Datomic command line tools look the system up by its tags, and the AWS credentials do not allow that; entryway and the client do not need it"
  ["the IAM user or role lacks tag:GetResources", "the credentials of another account"]
  ["allow tag:GetResources, or attach the policy that the Datomic stack made for administrators", "aws resourcegroupstaggingapi get-resources --region REGION --tag-filters Key=datomic:system"]
ENDPOINT_EXPORT [["export", "vpcendpointservicename", "cannot be deleted"], ["export", "vpcendpointservicename", "in use by"]]
  "Export SYSTEM-VpcEndpointServiceName cannot be deleted as it is in use by STACK"
  "CloudFormation, not the network: a stack with a VPC endpoint still uses the service that the Datomic stack is to delete or replace"
  ["the compute stack is deleted or upgraded past 781-9041 (which ends the endpoint service) while the VPC endpoint's stack exists"]
  ["delete the stack that made the VPC endpoint first, then upgrade", "afterwards: peering (entryway guide peering), or an endpoint in front of an NLB of your own (entryway guide current)"]
SYSTEM_NOT_FOUND [["datomic system", "not found"], ["no such datomic system"], ["unable to find datomic system"]]
  "Datomic system SYSTEM not found"
  "the Datomic command line tools find no system of this name in this account and region"
  ["the name is misspelt (it is the storage stack's SystemName)", "another region, profile or account", "the credentials may not list the resources' tags"]
  ["datomic system list --region REGION", "aws sts get-caller-identity, with the same profile"]
PORT_TAKEN [["address already in use"], ["bindexception"]]
  "bind [127.0.0.1]:8182: Address already in use"
  "two programs want the same port on this machine"
  ["an older entryway, ssh tunnel or `datomic client access` still runs", "the application itself listens on 8182"]
  ["entryway doctor: stage port names who holds it", "listen elsewhere: --listen 127.0.0.1:8192 and :endpoint \"http://localhost:8192\""]

// === ssh and SOCKS ===
PROHIBITED [["administratively prohibited"]]
  "channel 2: open failed: administratively prohibited"
  "ssh's remote end (the bastion) refused to connect to the entry point"
  ["the entry point's name does not resolve on the bastion, or is misspelt", "sshd on the bastion does not allow forwarding (AllowTcpForwarding)"]
  ["on the bastion: dig NAME, and curl http://NAME:8182/", "entryway on a machine inside the VPC or its VPN needs no bastion: entryway doctor --peering --system SYSTEM --region REGION"]
CHANNEL_FAILED [["channel", "open failed: connect failed"], ["channel", "open failed"]]
  "channel 3: open failed: connect failed: Connection refused"
  "ssh works, but its remote end cannot connect to the entry point"
  ["refused: wrong port, or no node behind the load balancer", "timed out: the entry point's security group does not let the bastion in", "Name or service not known: the name does not resolve on the bastion"]
  ["on the bastion: curl -v http://NAME:8182/", "entryway doctor on the bastion, with the target flags, names the cause"]
SSH_REFUSED_KEY [["permission denied (publickey"], ["too many authentication failures"], ["host key verification failed"], ["remote host identification has changed"]]
  "Permission denied (publickey)"
  "ssh could not log in at the bastion; Datomic was not reached"
  ["the key is not the bastion's, or the user is not ec2-user", "the bastion was replaced and has another host key"]
  ["ssh -v HOST shows which keys are offered", "ssh-keygen -R HOST, once you know that the new host key is right"]
SOCKS_TUNNEL [["socks : authentication failed"], ["socks4", "tunnel"], ["socks5", "tunnel"], ["socks", "tunnel failed"], ["malformed reply from socks"], ["socksexception"], ["socks: connection refused"]]
  "SOCKS4 tunnel failed, connection closed"
  "the client speaks SOCKS to something that does not, or the SOCKS proxy could not go on"
  ["the client map still has :proxy-port while entryway, a plain TCP port, listens there", "an old ssh tunnel whose remote end cannot reach the entry point (ssh said: administratively prohibited)"]
  ["take :proxy-port out of the client map and set :endpoint \"http://localhost:8182\" (entryway snippet edn --patch FILE does it)", "end old tunnels: entryway doctor names who holds port 8182"]

// === AWS credentials, keys and clocks: the entry point was reached ===
CLOCK_SKEW [["requesttimetooskewed"], ["difference between the request time and the current time is too large"], ["signature expired"], ["signature not yet current"], ["invalidsignatureexception", "expired"]]
  "The difference between the request time and the current time is too large (RequestTimeTooSkewed)"
  "this machine's clock is wrong by more than five minutes; AWS refuses the signature"
  ["no time synchronisation, or a virtual machine or container host that was suspended"]
  ["timedatectl, or chronyc tracking; in AWS the time server is 169.254.169.123", "docker or WSL after sleep: restart its virtual machine"]
EXPIRED_TOKEN [["expiredtoken"], ["security token", "expired"], ["token has expired"], ["sso session", "expired"], ["token included in the request is expired"]]
  "The provided token has expired (ExpiredToken)"
  "the temporary AWS credentials have run out; reading the keys from S3 fails, the network is fine"
  ["an SSO or assumed-role session is over", "credentials were copied into variables that are not renewed"]
  ["aws sso login (or assume the role again), then restart the application", "aws sts get-caller-identity, with the application's environment"]
NO_CREDENTIALS [["unable to fetch credentials"], ["unable to load aws credentials"], ["unable to load credentials"], ["unable to locate credentials"], ["no credentials found"], ["unable to find credentials"]]
  "Unable to load AWS credentials from any provider in the chain"
  "the application has no AWS credentials; the client needs them to read its keys from S3 and signs nothing without them"
  ["no role on the instance, task or pod", "no AWS_PROFILE or AWS_ACCESS_KEY_ID in the application's environment", "the metadata service is blocked: hop limit 1 and a container (IMDSv2)"]
  ["aws sts get-caller-identity, with the application's environment", "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2, for containers on EC2"]
INVALID_TOKEN [["security token included in the request is invalid"], ["invalidclienttokenid"], ["invalidaccesskeyid"], ["access key id you provided does not exist"], ["signaturedoesnotmatch"]]
  "The security token included in the request is invalid (InvalidClientTokenId)"
  "AWS does not know these credentials; the entry point was not at fault"
  ["a deleted or mistyped access key", "credentials of another partition (GovCloud, China)", "an access key without its session token"]
  ["aws sts get-caller-identity, with the application's environment", "set AWS_SESSION_TOKEN beside temporary keys, or unset all three"]
NO_REGION [["no region found"], ["unable to find a region via the region provider chain"], ["unable to load region"], ["you must specify a region"]]
  "Unable to find a region via the region provider chain"
  "the AWS SDK does not know the region; the entry point was not reached"
  ["no :region in the client map and no AWS_REGION"]
  [":region \"us-east-1\" in the client map, or AWS_REGION in the environment"]
KEYFILE_MISSING [["unable to find keyfile"], ["nosuchkey"], ["the specified key does not exist"], ["nosuchbucket"], ["the specified bucket does not exist"]]
  "The specified key does not exist (NoSuchKey)"
  "the entry point answered, but the keys it named are not there: the client map and the endpoint belong to different systems, or the database does not exist"
  ["wrong :system, or an endpoint of another system", "wrong :db-name: each database has keys of its own", "a bucket of another partition or a deleted system"]
  ["entryway doctor: stage identity prints the bucket that each address answers with", "(d/list-databases client {}) lists the databases"]
KEYFILE [["not authorized to perform: s3:getobject"], ["forbidden to read keyfile"], ["keyfile", "forbidden"], ["keyfile", "access denied"], ["access denied", "amazon s3"], ["accessdenied", "s3"]]
  "Forbidden to read keyfile at s3://…"
  "the network is fine: the entry point answered; reading the key from the system's bucket was refused"
  ["the application's AWS credentials or role may not GetObject on the bucket", "the endpoint is another system's: the bucket in the message is not the one that was meant"]
  ["aws sts get-caller-identity, with the application's environment", "aws s3 ls s3://THE_PATH_IN_THE_MESSAGE", "entryway doctor: the stage identity prints the bucket that each address answers with"]

// === answers of the node ===
LOADING [["loading database"]]
  "Loading database"
  "not a network fault: the node has not loaded the database yet; the client may try again"
  ["a node restarted or was replaced (deploy, scaling)", "the database was created a moment ago", "a failover led to a node that had not used this database"]
  ["retry with a pause; it ends by itself within a minute or so", "a steady stream of it: CodeDeploy → Deployments, EC2 → Instances of the system"]
DATABASE_NOT_FOUND [["unable to find database"], ["database does not exist"], ["unable to find db"], ["no such database"], ["could not find", "in catalog"], [":datomic.client/db-name", "not-found"]]
  "Unable to find database NAME"
  "the network and the system are fine: this system has no database of this name"
  ["the name is misspelt, or the database is in another system", "it was never created in this environment"]
  ["(d/list-databases client {})", "entryway doctor: stage identity says which system answers"]
OPS_LIMIT [["ops limit reached"]]
  "Ops limit reached: 64"
  "the application's own client said so before anything was sent: 64 operations were already waiting"
  ["more parallel calls than :pending-ops-limit (64) allows", "calls take long (slow queries, slow network), so that they pile up"]
  ["limit the parallel calls, or raise :pending-ops-limit and :max-connections-per-destination in the client map", "latency: entryway status shows connect times; the system's dashboard shows query times"]
API_GATEWAY [["missing authentication token"], ["execute-api", "forbidden"], ["endpoint request timed out"]]
  "{\"message\":\"Missing Authentication Token\"}"
  "an API Gateway answers; it is the public way to a current system and needs no proxy"
  [":endpoint leads to the API Gateway's host, but not to a path of the Datomic API", "the gateway gives a request 29 to 30 s (`Endpoint request timed out`), whatever the client's :timeout is"]
  ["use the stack output ClientApiGatewayEndpoint as :endpoint, without entryway", "for long queries take the private way: entryway guide choose"]
BODY_TOO_LARGE [["request too long"], ["status 413"], ["http 413"], ["payload too large"], ["request entity too large"]]
  "HTTP 413 Request Too Long"
  "something on the way limits the size of a request; entryway does not"
  ["an API Gateway takes at most 10 MB", "a web proxy between application and entry point"]
  ["smaller transactions", "the private way has no such limit: entryway guide choose"]
AUTH_PATH [["expected to find s3-auth-path"], ["invalid response received connecting to system"], [":s3-auth-path", "nil"]]
  "Invalid response received connecting to system, expected to find s3-auth-path in response: …"
  "something answered on the endpoint that is not Datomic's entry point"
  ["a web page: captive portal, company proxy, another web server", "a load balancer's error page (502, 503, 504): the nodes are down or starting", "another service on this host and port"]
  ["entryway doctor with the same target: stage http shows who answers and with what", "curl -i http://localhost:8182/ must print {:s3-auth-path \"…\"}"]

// === names, TLS, connects ===
UNKNOWN_HOST [["unknownhostexception"], ["unknown host"], ["nodename nor servname"], ["name or service not known"], ["unresolved address"], ["unresolvedaddressexception"], ["temporary failure in name resolution"], ["could not resolve host"]]
  "java.net.UnknownHostException: entry.SYSTEM.REGION.datomic.net"
  "the application resolves the entry point's name itself, and cannot; the client does not retry this"
  ["the client map's :endpoint is the entry point's name, not entryway's port", "DNS: the VPC is not associated with the system's hosted zone, or the VPN is down"]
  ["set :endpoint \"http://localhost:8182\": entryway resolves, and keeps the last good answer", "entryway doctor --peering --system SYSTEM --region REGION: stages resolver and names tell why"]
TLS_PORT [["plain http request was sent to https port"], ["client sent an http request to an https server"], ["speaking plain http to an ssl-enabled"]]
  "400 The plain HTTP request was sent to HTTPS port"
  "the application speaks plain HTTP to a port that wants TLS"
  [":endpoint has http:// where the API Gateway or load balancer wants https://"]
  [":endpoint \"https://…\" for an API Gateway, without entryway", "Datomic Cloud's private port is 8182 and plain"]
CERTIFICATE [["pkix path"], ["unable to find valid certification path"], ["no subject alternative"], ["certificate_unknown"], ["no name matching"], ["sslpeerunverifiedexception"]]
  "javax.net.ssl.SSLHandshakeException: PKIX path building failed"
  "TLS works, but the certificate is not one that the application trusts for this name"
  ["a company proxy opens TLS and shows its own certificate", "a peer server (client-pro) with its own certificate, reached as localhost"]
  ["add the company's CA to the JVM's trust store", "client-pro: :validate-hostnames false, and :trust-certs with the server's certificate"]
TLS [["sslexception"], ["sslhandshake"], ["unsupported or unrecognized ssl"], ["not an ssl/tls record"], ["wrong version number"]]
  "javax.net.ssl.SSLException: Unsupported or unrecognized SSL message"
  "one side speaks TLS, the other plain HTTP"
  [":endpoint begins with https:// but leads to entryway's or Datomic's plain port"]
  [":endpoint \"http://localhost:8182\", with http, for Datomic Cloud's private port", "an API Gateway is used directly with https, without entryway"]
NO_ROUTE [["no route to host"], ["noroutetohostexception"], ["network is unreachable"], ["host is unreachable"]]
  "java.net.NoRouteToHostException: No route to host"
  "this machine's network has no way to the address"
  ["the VPN is down, or does not carry this network", "the address belongs to a deleted endpoint or load balancer", "the route table of the subnet lacks the peering"]
  ["entryway doctor with the target flags: stage route", "through entryway the application connects to localhost: :endpoint \"http://localhost:8182\""]
OUT_OF_FILES [["too many open files"], ["emfile"]]
  "java.net.SocketException: Too many open files"
  "a process has used up its file descriptors: the application's, or entryway's if its log says so"
  ["a client object per request instead of one for the process: each has its own connections", "a low limit (ulimit -n)"]
  ["make one (d/client …) and keep it", "systemd: LimitNOFILE=65536; a container: --ulimit nofile=65536:65536", "entryway doctor: stage limits"]
CONNECT_TIMEOUT [["connect timeout"], ["connect timed out"], ["connection timed out"], ["connecttimeoutexception"], ["httpconnecttimeoutexception"]]
  "Unable to connect … Connect Timeout"
  "the connect is not answered at all: packets are dropped on the way"
  ["a security group or network ACL without TCP 8182", "a VPC endpoint whose connection is not accepted (pendingAcceptance)", "outside the VPC, with the VPN down: these names resolve everywhere"]
  ["entryway doctor with the target flags: stages route and tcp", "through entryway the connect to localhost is immediate; if this message names localhost, something else answers there"]
CONN_LIMIT [["max", "requests queued"], ["connection pool", "exhausted"], ["acquire", "timed out", "pool"]]
  "Max requests queued per destination"
  "the application's own client ran out of connections; nothing was sent"
  ["more parallel calls than the client map allows"]
  ["limit the parallel calls, or raise :max-connections-per-destination"]
CONNECT [["unable to connect"], ["connection refused"], ["connectexception"], ["econnrefused"]]
  "Unable to connect to localhost:8182 … Connection refused"
  "nothing listens where the application connects to"
  ["entryway (or the tunnel) does not run, or not yet", "it listens on another port or in another container: localhost is each container's own", "when_all_down = refuse, and no address is up"]
  ["entryway status; start it: entryway run …, or as a wrapper: entryway run … -- CMD, which waits up to 10 s for a healthy address", "in a pod both containers share localhost; in docker compose they do not: network_mode \"service:…\"", "entryway doctor: stage port tells who listens"]

// === an open connection ===
BUSY [["http 429"], ["status 429"], ["too many requests"], ["anomalies/busy"], ["throttled"]]
  "busy (HTTP 429)"
  "not a network fault: the node is over its capacity, and the client has already backed off three times"
  ["more load than the nodes can take", "one expensive query that holds the node"]
  ["CloudWatch → dashboard of the system: HttpEndpointThrottled, CPU", "more or larger nodes, a query group for heavy readers, fewer parallel calls"]
ALB_502 [["502 bad gateway"], ["http 502"], ["status 502"]]
  "<title>502 Bad Gateway</title>"
  "the load balancer answers: its target closed the connection"
  ["a node crashed or restarts", "a deploy is in progress: nodes restart one at a time"]
  ["EC2 → Target groups → the system's group → Targets", "CodeDeploy → Deployments; wait for its end, then try again"]
ALB_503 [["503 service temporarily unavailable"], ["503 service unavailable"], ["http 503"], ["status 503"]]
  "<title>503 Service Temporarily Unavailable</title>"
  "the load balancer answers: it has no target in service"
  ["the compute group has no healthy node, or is scaled to 0", "the nodes are starting: minutes after a deploy or an upgrade"]
  ["EC2 → Target groups → Targets, and the compute group's auto scaling group", "entryway doctor: stage http says whether every zone answers so; entryway avoids a zone that does"]
ALB_504 [["504 gateway time-out"], ["504 gateway timeout"], ["http 504"], ["status 504"]]
  "<title>504 Gateway Time-out</title>"
  "the load balancer answers: its target did not, within 60 s"
  ["the nodes hang or are overloaded", "a query that takes longer than the load balancer waits", "the security group of the nodes does not let the load balancer in"]
  ["CloudWatch → dashboard of the system: CPU", "entryway status: does one zone only answer so?"]
FORBIDDEN [["\"message\":\"forbidden\""], ["anomalies/forbidden"], ["http 403"], ["status 403"], ["403 forbidden"]]
  "forbidden (HTTP 403)"
  "the node, or an API Gateway, refused the request; the network is fine"
  ["credentials of another account or system", "the clock is wrong, or something on the way changes the Host header (entryway does not)", "the endpoint is an API Gateway stage with a policy"]
  ["aws sts get-caller-identity, with the application's environment", "entryway doctor: stages http and identity"]
CLIENT_TIMEOUT [["total timeout", "elapsed"], ["datomic client timeout"], ["anomalies/interrupted"], ["timeoutexception"], ["request timed out"], ["idle timeout", "elapsed"], ["idle timeout expired"], ["read timed out"]]
  "Total timeout elapsed / Datomic Client Timeout"
  "no answer within the client's :timeout (60 s by default); the cause does not follow from the message alone"
  ["packets vanish: security group, VPN down, a lost zone (without entryway: until the kernel gives up)", "a slow query or an overloaded node", "entryway held the connection because no address was up"]
  ["entryway doctor: does the network answer now?", "entryway status: were addresses down? The log's conn.close lines of that time name the reason", "if all is well there: the query itself, or CPU on the system's dashboard"]
BROKEN [["connection reset"], ["broken pipe"], ["eofexception"], ["eof reached"], ["premature eof"], ["closedchannel"], ["http/1.1 header parser received no bytes"], ["connection closed"], ["unexpected end of file from server"]]
  "java.io.IOException: Connection reset by peer / EofException"
  "an open connection ended while it was used; the client retries reads by itself, transact never"
  ["a node or zone went away", "an idle limit on the way: an ALB closes after 60 s, a VPC endpoint forgets after 350 s", "no address was up: entryway closed the connection after hold_timeout"]
  ["the log's conn.close line of that moment names who closed and why, with a hint", "entryway status and entryway doctor"]
UNAVAILABLE [["anomalies/unavailable"], ["service unavailable"], ["bad gateway"], ["gateway timeout"]]
  "{:cognitect.anomalies/category :cognitect.anomalies/unavailable}"
  "the load balancer or a node says that it cannot serve now; the client retries reads for a minute"
  ["a deploy or restart: nodes go one at a time; a group of one is down meanwhile", "the compute group has no healthy node"]
  ["entryway doctor: stage http tells 502, 503 and 504 apart", "EC2 → Target groups → Targets; CodeDeploy → Deployments"]
BUSY_WORD [["busy"]]
  "busy"
  "probably the node is over its capacity, and the client has already backed off"
  ["more load than the nodes can take"]
  ["CloudWatch → dashboard of the system: HttpEndpointThrottled, CPU"]
}
