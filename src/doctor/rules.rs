//! The rules: symptom → causes, the likeliest first → steps. One table, which doctor speaks and the guide prints.
//!
//! Text only; who finds the symptom is the stage's business. A word in braces is a fact about the subject; what is not
//! known is printed as a word in capitals, to be put in by the reader.

use super::types::{CheckVerdict, Rule, Stage};

macro_rules! rules {
    ($($id:ident $stage:ident $verdict:ident $symptom:literal [$($cause:literal),* $(,)?] [$($step:literal),* $(,)?])*) => {
        $(
            #[doc = $symptom]
            pub static $id: Rule = Rule {
                id: stringify!($id),
                stage: Stage::$stage,
                verdict: CheckVerdict::$verdict,
                symptom: $symptom,
                causes: &[$($cause),*],
                steps: &[$($step),*],
            };
        )*
        /// All of them, in the order of the stages.
        pub static ALL: &[&Rule] = &[$(&$id),*];
    };
}

rules! {
SETTINGS_WRONG Settings Fail "a setting is wrong"
  ["the target, or another setting, cannot be what it was given as"]
  ["correct it; `entryway check` with the same flags shows every setting and where it comes from"]
SETTINGS_ODD Settings Warn "a setting has no effect or will hurt"
  ["a misspelt variable, or a value at odds with another"]
  ["`entryway check` with the same flags shows every setting and where it comes from"]
ENDPOINT_IS_LISTENER Settings Fail "an endpoint is entryway's own listen address: connections would go round in a circle"
  ["the endpoint is localhost, which belongs in the application's :endpoint, not here",
   "the hosts file points the entry point's name at this machine"]
  ["give the name of the Datomic entry point as the endpoint; look for {host} in /etc/hosts",
   "if an SSH tunnel listens there, let entryway listen on another port: --listen 127.0.0.1:8192"]

PORT_HELD Port Fail "another program listens on the listen address"
  ["{holder} holds it: an old `datomic client access` or ssh tunnel, another proxy, a Gremlin server"]
  ["end it (kill {pid}), or listen elsewhere: --listen 127.0.0.1:8192 and :endpoint \"http://localhost:8192\""]
PORT_FORBIDDEN Port Fail "the listen address may not be bound"
  ["ports below 1024 need a privilege"]
  ["listen on a port above 1023, such as --listen 127.0.0.1:8182"]
PORT_NO_ADDRESS Port Fail "this machine does not have the listen address"
  ["the address is another machine's, or its interface is down"]
  ["`ip addr` lists this machine's addresses; 127.0.0.1:8182 always works"]

RESOLVER_NONE Resolver Fail "there is no DNS server to ask"
  ["the system's resolv.conf is missing or names no server: the network is down, or the container has none"]
  ["look into /etc/resolv.conf; in a VPC the server is the network's base address plus two, or 169.254.169.253",
   "name a server: --dns-server 169.254.169.253:53"]
RESOLVER_ONE_BAD Resolver Warn "one DNS server fails while another answers"
  ["a VPN's server that is out of reach or out of order; every first lookup waits for it"]
  ["dig @{server} {host} — and take the server out of /etc/resolv.conf, or reconnect the VPN",
   "name the good one: --dns-server IP:53"]
RESOLVER_ALL_BAD Resolver Fail "no DNS server gives a sensible answer"
  ["the network or the VPN is down, or a security group or firewall drops UDP and TCP 53",
   "in a VPC: enableDnsSupport is off, or more than 1024 packets a second are sent to its server"]
  ["dig @{server} {host}",
   "aws ec2 describe-vpc-attribute --vpc-id VPC_ID --attribute enableDnsSupport"]

NAME_ENTRY_IS_HTTP Names Fail "entry.… does not exist, but entry-http.… does: a system of release 884-9095 or later"
  ["since release 884-9095 (July 2021) the load balancer is an ALB and its private name is entry-http.…"]
  ["use {other} in place of {host}, or --peering --system {system} --region {region}, which tries both"]
NAME_HTTP_IS_ENTRY Names Fail "entry-http.… does not exist, but entry.… does: a system older than release 884-9095"
  ["before release 884-9095 (July 2021) the private name is entry.…"]
  ["use {other} in place of {host}, or --peering --system {system} --region {region}, which tries both"]
NAME_PEERED_MISSING Names Fail "the entry point's name does not exist here (NXDOMAIN)"
  ["this VPC is not associated with the system's private hosted zone {zone}",
   "this machine is outside the VPC and not on its VPN, or asks another DNS server than the VPC's",
   "the system's name or region is misspelt",
   "the VPC has enableDnsSupport or enableDnsHostnames off, or the peering does not resolve DNS"]
  ["Route 53 → Hosted zones → {zone} → Edit: this VPC must stand under VPCs to associate",
   "aws route53 list-hosted-zones-by-vpc --vpc-id VPC_ID --vpc-region {region}",
   "aws route53 associate-vpc-with-hosted-zone --hosted-zone-id ZONE_ID --vpc VPCRegion={region},VPCId=VPC_ID",
   "aws ec2 describe-vpc-attribute --vpc-id VPC_ID --attribute enableDnsHostnames (and enableDnsSupport)",
   "the names of your systems: datomic system list, or the CloudFormation stacks of {region}"]
NAME_GROUP_MISSING Names Fail "the query group's name does not exist here (NXDOMAIN), while the system's own does"
  ["the query group does not exist, was deleted, or its name is misspelt",
   "this VPC is associated with the system's hosted zone, but not with the query group's, {zone}"]
  ["datomic system describe-groups SYSTEM lists the groups; each has a CloudFormation stack of its own",
   "Route 53 → Hosted zones → {zone} → Edit: this VPC must stand under VPCs to associate",
   "without --query-group the connections go to the primary compute group"]
NAME_VPCE_MISSING Names Fail "the VPC endpoint's name does not exist (NXDOMAIN)"
  ["the endpoint was deleted; one that is made anew has another name",
   "the endpoint's id, suffix, service or region is misspelt in the name"]
  ["aws ec2 describe-vpc-endpoints --region {region} --vpc-endpoint-ids {endpoint_id} --query 'VpcEndpoints[].[State,DnsEntries[].DnsName]'",
   "aws ec2 describe-vpc-endpoints --region {region} --query 'VpcEndpoints[].[ServiceName,DnsEntries[0].DnsName]' lists all",
   "a Route 53 name of your own in front of it survives the next endpoint: entryway snippet aws"]
NAME_MISSING Names Fail "the name does not exist (NXDOMAIN)"
  ["the name is misspelt", "it is in a private zone that this machine's DNS server does not know: VPN down, VPC not associated"]
  ["dig {host}", "aws route53 list-hosted-zones-by-vpc --vpc-id VPC_ID --vpc-region {region}"]
NAME_SEARCH_ONLY Names Fail "the name exists only with a search domain of this machine behind it"
  ["the name is cut short; other programs complete it, entryway does not: it would mean another host on another machine"]
  ["give the whole name: {other}"]
NAME_EMPTY Names Fail "the name exists but has no addresses (NODATA)"
  ["a load balancer without a zone in service, or an endpoint that is being made or deleted",
   "a record of another kind (TXT, MX) under this name"]
  ["dig {host} ANY",
   "aws ec2 describe-vpc-endpoints --region {region} --query 'VpcEndpoints[].[VpcEndpointId,State]'"]
NAME_NO_ANSWER Names Fail "no DNS server says whether the name exists"
  ["the servers are out of reach or failed: see the stage resolver",
   "the zone's own servers fail, or a Route 53 resolver rule forwards this name to a server that is gone"]
  ["dig {host}", "aws route53resolver list-resolver-rules --region {region}"]
NAME_LOCAL_ONLY Names Fail "DNS answers with addresses of this machine or link only, which are refused"
  ["an ad blocker, a captive portal or a VPN's DNS answers in place of the real server",
   "a record that was meant for the inside of another machine"]
  ["dig {host}", "if it is meant so: --allow-local-answers, or an entry in /etc/hosts"]
NAME_PUBLIC Names Warn "the name answers with public addresses only"
  ["split horizon: this machine asks a public DNS server, not the VPC's",
   "the load balancer is internet-facing; Datomic's own are internal"]
  ["ask the VPC's server: --dns-server IP:53 (its base address plus two), or a Route 53 inbound endpoint over the VPN",
   "aws elbv2 describe-load-balancers --region {region} --query 'LoadBalancers[].[DNSName,Scheme]'"]
NAME_MIXED Names Warn "the name answers with private and public addresses"
  ["two zones with the same name, or a record set that was put together by hand"]
  ["dig {host}: remove the public ones, or give the private ones as --endpoint"]
NAME_DISAGREE Names Warn "the DNS servers give different answers"
  ["split horizon: one server is the VPC's or VPN's, another is public; the first that answers decides"]
  ["put the VPC's server first in /etc/resolv.conf, or name it alone: --dns-server IP:53"]
NAME_ONE_ADDRESS Names Warn "there is one address: when its zone fails, nothing is left"
  ["a zonal name was given in place of the regional one, or one address by its number",
   "the VPC endpoint, or the load balancer, has one subnet only"]
  ["give the regional name (--vpce NAME), or one --endpoint for each zone",
   "aws ec2 modify-vpc-endpoint --region {region} --vpc-endpoint-id {endpoint_id} --add-subnet-ids SUBNET_ID"]
NAME_SAME_ADDRESS Names Warn "several zones are configured, but all lead to one address"
  ["the same name, or the regional name, was given for each zone"]
  ["give each zone its own name: ENDPOINT-ZONE.SERVICE.REGION.vpce.amazonaws.com; --vpce derives them"]
NAME_ZONES_MISSING Names Warn "the VPC endpoint's zonal names do not answer: its zones are not known"
  ["the name is a copy or an alias without zonal records", "the DNS server answers for the regional name only"]
  ["aws ec2 describe-vpc-endpoints --region {region} --vpc-endpoint-ids {endpoint_id} --query 'VpcEndpoints[].DnsEntries[].DnsName'"]

ROUTE_NONE Route Fail "this machine has no route to the address"
  ["the VPN or the network is down", "the route table of this subnet has no entry for the peered VPC's network"]
  ["ip route get {ip}",
   "aws ec2 describe-route-tables --filters Name=vpc-id,Values=VPC_ID --query 'RouteTables[].Routes' must show the peering (pcx-…)"]
ROUTE_UNREACHABLE Route Fail "the network says that the address cannot be reached"
  ["the host is gone (an address of a deleted endpoint or load balancer), or its network is not connected",
   "a firewall of this machine rejects it"]
  ["ip route get {ip}", "dig {host}: is the address still in the answer?"]

HOP_DOWN Hop Fail "the hop itself does not work; nothing is known about what is behind it"
  ["the proxy or the ssh server is down, or out of reach from here: VPN, network, its address",
   "it does not accept this user, key or certificate"]
  ["run its command, or `curl -x` the proxy, by hand and read what it says",
   "`entryway status` shows state and last output of the hops of a running instance"]

HOP_TARGET Tcp Fail "the hop works, but the entry point cannot be reached through it"
  ["the security group of the entry point does not let the hop's machine in, on port {port}",
   "the name {host} does not resolve where the hop runs: not in the VPC, or not associated with its private zone",
   "the rules of the hop do not allow this host and port"]
  ["on the hop's machine: curl -sS http://{host}:{port}/",
   "aws ec2 describe-security-groups, for the group of the load balancer: inbound {port} from the hop"]
TCP_REFUSED Tcp Fail "the connect is refused: the host is there, nothing listens on the port"
  ["wrong host or port: Datomic's is 8182", "the load balancer has no listener on {port}, or the compute group has no node",
   "an SSH tunnel or another proxy at this address has ended"]
  ["CloudFormation → the compute group's stack → Outputs: LoadBalancerName, and its listeners",
   "aws elbv2 describe-listeners --region {region} --load-balancer-arn ARN --query 'Listeners[].[Protocol,Port]'",
   "datomic system describe-groups {system}"]
TCP_TIMEOUT_VPCE Tcp Fail "no answer to the connect, at an address of a VPC endpoint; which cause cannot be told from here"
  ["the endpoint's security group does not let this machine in on {port}",
   "the endpoint's connection is not accepted: pendingAcceptance or rejected, which also times out",
   "this machine is outside the endpoint's VPC: these names resolve everywhere, the addresses work only inside",
   "the load balancer behind the endpoint has no listener on {port}, or no healthy target in any zone"]
  ["aws ec2 describe-vpc-endpoints --region {region} --vpc-endpoint-ids {endpoint_id} --query 'VpcEndpoints[].[State,VpcId,Groups[].GroupId]'",
   "aws ec2 authorize-security-group-ingress --region {region} --group-id GROUP_ID --protocol tcp --port {port} --cidr THIS_NETWORK",
   "aws ec2 accept-vpc-endpoint-connections --region {region} --service-id {service} --vpc-endpoint-ids {endpoint_id} (in the account of the service)",
   "aws elbv2 describe-target-health --region {region} --target-group-arn ARN"]
TCP_TIMEOUT_PEERED Tcp Fail "no answer to the connect, at an address of the peered VPC; which cause cannot be told from here"
  ["the security group of the nodes or the load balancer ({system}-nodes, older: datomic-{system}-entry) does not let this network in on {port}",
   "the route is missing in one direction: both VPCs' route tables need the other's network over the peering (pcx-…)",
   "a network ACL of either subnet drops {port} or the way back (1024-65535)",
   "this machine is outside the VPC and its VPN is down"]
  ["aws ec2 describe-security-groups --region {region} --filters Name=tag:Name,Values={system}-nodes --query 'SecurityGroups[].IpPermissions'",
   "aws ec2 describe-vpc-peering-connections --region {region} --query 'VpcPeeringConnections[].[VpcPeeringConnectionId,Status.Code]' must say active",
   "aws ec2 describe-route-tables --region {region} --filters Name=vpc-id,Values=VPC_ID --query 'RouteTables[].Routes', for both VPCs",
   "VPC → Reachability Analyzer from this instance's interface to the load balancer's, TCP {port}, names the one that drops"]
TCP_TIMEOUT_PUBLIC Tcp Fail "no answer to the connect, at a public address"
  ["Datomic's port 8182 is not open to the internet: the name was resolved by the wrong DNS server",
   "the security group of the load balancer, or a firewall on the way, drops {port}"]
  ["ask the VPC's DNS server: --dns-server IP:53", "dig {host}: inside the VPC it should give 10.…, 172.16-31.… or 192.168.…"]
TCP_TIMEOUT Tcp Fail "no answer to the connect; which cause cannot be told from here"
  ["a security group, network ACL or firewall drops {port}", "the route back to this machine is missing, or the VPN is down",
   "a network load balancer drops connects to a port without a listener", "the host is gone"]
  ["inbound {port} from this machine's network in the security group of {host}",
   "aws ec2 describe-route-tables --filters Name=vpc-id,Values=VPC_ID --query 'RouteTables[].Routes'"]
TCP_TIMEOUT_SOME Tcp Fail "no answer to the connect here, while other addresses of the upstream connect"
  ["the zone has an outage", "this zone's subnet or endpoint interface has another security group or network ACL",
   "no healthy target in this zone, with cross-zone balancing off: normal with two nodes in three zones"]
  ["failover covers it: traffic goes to the other addresses; entryway explain shows where",
   "aws elbv2 describe-target-health --region {region} --target-group-arn ARN shows the zones that have targets",
   "aws ec2 describe-network-interfaces --region {region} --filters Name=private-ip-address,Values={ip} --query 'NetworkInterfaces[].[AvailabilityZone,Status,Groups]'"]
TCP_SLOW Tcp Warn "the connect takes longer than --connect-timeout"
  ["packets are lost on the way (a lost SYN costs a second), or the way is long"]
  ["mtr --tcp --port {port} {ip}", "a longer --connect-timeout, if the way is that long"]

BYTES_FIN Bytes Fail "the connect works, then the other side closes without a byte"
  ["a network load balancer without a healthy target", "an SSH tunnel or proxy that cannot reach its own target",
   "a TLS port that rejects plain HTTP"]
  ["aws elbv2 describe-target-health --region {region} --target-group-arn ARN", "curl -v http://{host}:{port}/"]
BYTES_RESET Bytes Fail "the connect works, then the other side resets without a byte"
  ["a network load balancer without a healthy target, or whose target became unhealthy",
   "a firewall that lets the connect through and then resets", "a TLS port that rejects plain HTTP"]
  ["aws elbv2 describe-target-health --region {region} --target-group-arn ARN", "curl -v http://{host}:{port}/"]
BYTES_SILENT Bytes Fail "the connect works, then nothing comes back"
  ["the node hangs, or restarts and has not loaded yet", "something on the way accepts for others: a VPN, a transparent proxy, an SSH tunnel",
   "large packets are lost on the way (MTU) or a firewall drops what follows the connect"]
  ["the nodes' health: CloudWatch → dashboard of the system, EC2 → Instances tagged {system}", "curl -v --max-time 10 http://{host}:{port}/"]
BYTES_MTU Bytes Fail "small requests are answered, large ones are lost on the way: transactions would hang"
  ["a tunnel or VPN on the way carries smaller packets than this machine sends (MTU), and the ICMP messages that would say so are dropped",
   "a security group or firewall drops ICMP `fragmentation needed`"]
  ["ping -M do -s 1472 {ip}: the largest size that is answered, plus 28, is the MTU of the path",
   "ip link set dev TUNNEL mtu 1400, or clamp the segment size: iptables -t mangle -A POSTROUTING -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
   "in AWS: allow ICMP type 3 code 4 in the security groups and network ACLs of both sides"]
BYTES_TLS Bytes Fail "the port speaks TLS, Datomic's private port speaks plain HTTP"
  ["the endpoint is an API Gateway, an https load balancer or a peer server"]
  ["an API Gateway or https endpoint needs no proxy: put it into the application's :endpoint as https://…",
   "a peer server (client-pro): --probe tcp, and :validate-hostnames false in the application"]
BYTES_NOT_HTTP Bytes Fail "what answers does not speak HTTP"
  ["another service listens there: SSH, a SOCKS proxy, a database"]
  ["the entry point's port is 8182: check host and port of the endpoint"]

HOP_ANSWER Http Fail "something answers through the hop, but not as Datomic does"
  ["another host or port than the entry point's", "a captive portal or an error page of the hop"]
  ["on the hop's machine: curl -sS http://{host}:{port}/"]
HTTP_HTML Http Fail "a web page comes back, not Datomic"
  ["a captive portal or a company's web proxy answers in its place", "another web server has this address"]
  ["open http://{host}:{port}/ in a browser: whose page is it?"]
HTTP_OTHER Http Fail "an answer comes back, but not Datomic's {:s3-auth-path …}"
  ["another HTTP service has this address or port: Datomic's HTTP direct (8184), another application"]
  ["curl -i http://{host}:{port}/ must print {:s3-auth-path \"…\"}", "dig {host}: has the address been given to another host?"]
HTTP_GATEWAY Http Fail "an API Gateway answers"
  ["the endpoint is the system's API Gateway or a custom domain of it"]
  ["use it directly: :endpoint \"https://…execute-api.REGION.amazonaws.com\"; it needs no proxy (limits: 30 s and 10 MB a request)"]
HTTP_ALB_502 Http Fail "the load balancer answers 502: its target closed the connection"
  ["a node crashed or restarts", "a deploy is in progress: nodes restart one at a time"]
  ["EC2 → Target groups → the system's group → Targets", "CodeDeploy → Deployments; wait for its end, then again"]
HTTP_ALB_503 Http Fail "the load balancer answers 503: it has no target in service"
  ["the compute group has no node (scaled to 0) or none that is healthy", "the nodes are starting: minutes after a deploy or an upgrade"]
  ["aws autoscaling describe-auto-scaling-groups --region {region} --query \"AutoScalingGroups[?contains(AutoScalingGroupName,'{system}')].[AutoScalingGroupName,DesiredCapacity,Instances[].LifecycleState]\"",
   "aws elbv2 describe-target-health --region {region} --target-group-arn ARN"]
HTTP_ALB_504 Http Fail "the load balancer answers 504: its target did not"
  ["the nodes hang or are overloaded", "the security group of the nodes does not let the load balancer in"]
  ["CloudWatch → dashboard of the system: CPU, HttpEndpointThrottled", "aws ec2 describe-security-groups --region {region} --filters Name=tag:Name,Values={system}-nodes"]
HTTP_503 Http Fail "the node answers 503: it does not serve yet"
  ["a node is starting and has not loaded its databases", "a query group that is being deployed"]
  ["wait a minute, then again; datomic system describe-groups {system}"]
HTTP_BUSY Http Fail "the node answers 429: busy"
  ["the node is over its capacity"]
  ["CloudWatch → dashboard of the system: HttpEndpointThrottled, CPU; more or larger nodes, or a query group"]
HTTP_TLS_PORT Http Fail "400: plain HTTP was sent to an HTTPS port"
  ["the endpoint is an https listener: an API Gateway, a custom domain, an https load balancer"]
  ["put it into the application's :endpoint as https://… : it needs no proxy", "the private port is 8182"]
HTTP_REDIRECT Http Fail "the answer sends elsewhere"
  ["a web server or load balancer that sends http to https: not Datomic's entry point", "a captive portal"]
  ["curl -i http://{host}:{port}/ shows where to; the entry point's port is 8182"]
HTTP_STATUS Http Fail "a status that Datomic's entry point does not give"
  ["another HTTP service has this address or port"]
  ["curl -i http://{host}:{port}/ must print 200 and {:s3-auth-path \"…\"}"]
HTTP_SLOW Http Warn "the answer takes longer than a probe may: the address may be marked down"
  ["the node is overloaded or loads its databases", "the way is long or loses packets"]
  ["CloudWatch → dashboard of the system: CPU", "allow more: upstream.health.timeout in the settings file"]

IDENTITY_MIXED Identity Fail "the addresses belong to different Datomic systems"
  ["endpoints of two systems were put into one upstream", "an address was given to another system's load balancer: stale DNS, hosts file, fixed IP"]
  ["keep the endpoints of one bucket; another system needs an upstream and a listener of its own",
   "datomic system describe-groups {system} and the stack's outputs say which bucket is the system's"]
IDENTITY_OTHER Identity Fail "the addresses answer as another system than --expect-s3-auth-path says"
  ["the endpoint is another system's", "the system was made anew and has a new bucket"]
  ["compare with the stack's outputs, then correct the endpoint or --expect-s3-auth-path"]

THROUGH_FAILS Through Fail "entryway listens, but nothing comes back through it"
  ["no address is up for it: it waits (hold) or closes", "the running instance has another target than the one examined here"]
  ["entryway status", "entryway explain"]
THROUGH_OTHER Through Fail "entryway leads to another Datomic system than the one examined here"
  ["the running instance was started with another target"]
  ["entryway status", "restart it with this target, or examine its own: entryway doctor without target flags"]
THROUGH_DISAGREES Through Warn "the running instance counts an address as down although it answers"
  ["it has just come back: it is used again after two good probes and the failback time", "the instance runs elsewhere: another network, container or user"]
  ["entryway status, then entryway endpoint probe NAME"]

LIMIT_FILES Limits Warn "few open files are allowed: few connections at once"
  ["the limit of open files (ulimit -n) is low; a connection takes two"]
  ["systemd: LimitNOFILE=65536; a container: --ulimit nofile=65536:65536; a shell: ulimit -n 65536"]
LIMIT_FILES_USED Limits Warn "the running instance has used more than 70 % of its open files"
  ["more connections than the limit was made for, or clients that leak them"]
  ["entryway status", "systemd: LimitNOFILE=65536; a container: --ulimit nofile=65536:65536"]
LIMIT_PORTS Limits Warn "more than 80 % of the local ports towards this address are in use"
  ["many connections to one address, many of them closed a moment ago (TIME-WAIT): a client that does not reuse them"]
  ["sysctl -w net.ipv4.ip_local_port_range='1024 65535'", "more endpoints; a client that keeps its connections"]
LIMIT_KEEPALIVE Limits Warn "keepalive comes too late for the idle limits on the way"
  ["network load balancers, VPC endpoints and NAT gateways forget a connection after 350 s of silence; what is sent then is lost or reset"]
  ["upstream.tcp.keepalive below 350s; the default is 15s. An ALB's limit of 60 s is not held off by keepalive"]
LIMIT_DRAIN Limits Warn "shutdown.max_delay is longer than Kubernetes waits (30 s): connections would be cut"
  ["the pod is killed terminationGracePeriodSeconds after TERM; ECS waits stopTimeout, 30 s too"]
  ["--max-drain 25s, or a longer terminationGracePeriodSeconds / stopTimeout"]
LIMIT_HOLD Limits Warn "connections are held as long as the Datomic client waits"
  ["the client's own limit is 60 s by default; a held request times out there and nothing is logged from entryway"]
  ["listener.hold_timeout below 60s; the default is 10s"]
}
