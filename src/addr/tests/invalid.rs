//! Texts that cannot be a `HOST:PORT`, and hosts that can be connected to but look odd.

/// What was given as `HOST:PORT`, and words of the sentence that says what it is.
pub(super) const INVALID: &[(&str, &str)] = &[
    ("", "empty"),
    ("db 1:8182", "white space"),
    (" db:8182", "white space"),
    ("db:8182\n", "white space"),
    ("h1:8182,h2:8182", "several names"),
    ("http://db:8182", "without a scheme: give `db:8182`"),
    ("https://datomic.example.com", "needs no proxy"),
    ("http://db.example.com", "give `db.example.com:8182`"),
    (
        "https://vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com:8182",
        "leave out https://",
    ),
    (
        "https://entry.prod.us-east-1.datomic.net",
        "give `entry.prod.us-east-1.datomic.net:8182`",
    ),
    ("::1:9182", "if 9182 is the port, [::1]:9182"),
    (
        "https://x1y2.execute-api.us-east-1.amazonaws.com",
        "API Gateway",
    ),
    ("db:8182/", "no path: give `db:8182`"),
    ("db:8182/api", "no path"),
    ("tcp://db:8182", "without `tcp://`"),
    ("s3://bucket/prod", "bucket"),
    ("socks5h://localhost:8182", "SOCKS"),
    ("datomic:ddb://us-east-1/table/db", "peer"),
    ("db.example.com", "give `db.example.com:8182`"),
    ("my-system", "--peering --system my-system"),
    ("db:", "port after the colon is missing"),
    (":8182", "host before the port"),
    ("8182", "only a number"),
    ("db:0", "port 0"),
    ("db:99999", "99999 does not exist"),
    ("db:99999999999", "no port number"),
    ("db:http", "no port number"),
    ("db:-1", "no port number"),
    ("db:+1", "no port number"),
    ("::1:8182", "[::1:8182]:8182"),
    ("fe80::1:2:3:4:5:6:8182", "brackets"),
    ("[::1:8182", "not closed"),
    ("[::1]8182", "no :PORT"),
    ("[db]:8182", "no IPv6"),
    ("[::1]", "give `[::1]:8182`"),
    ("a:b:c", "several colons"),
    ("0.0.0.0:8182", "not the address of one machine"),
    ("[::]:8182", "not the address of one machine"),
    ("224.0.0.1:8182", "not the address of one machine"),
    ("10.0.0.256:8182", "no IPv4"),
    ("10.0.0:8182", "no IPv4"),
    ("ec2-user@bastion:22", "ssh"),
    ("datenbänk:8182", "xn--"),
    ("db:8182\u{7}", "control"),
    ("db|x:8182", "`|` cannot stand"),
    ("a..b:8182", "extra dot"),
    ("-db:8182", "hyphen"),
    ("config.edn", "--from-client config.edn"),
    ("{:endpoint \"x\"}", "EDN"),
    (
        "prod-storagef7f305e7-1n3c-s3datomic-2n2m24rzlu6al",
        "bucket",
    ),
    (
        "arn:aws:elasticloadbalancing:us-east-1:1:loadbalancer/net/x",
        "ARN",
    ),
    ("arn:aws:cloudformation:us-east-1:1:stack", "ARN"),
    ("vpc-0123456789abcdef0", "id of a VPC"),
    ("i-0123456789abcdef0:8182", "id of an instance"),
    ("vpce-083453c598589f6ba", "endpoint's id"),
    ("vpce-svc-079c04a696f355e37", "endpoint service"),
    (
        "com.amazonaws.vpce.us-west-2.vpce-svc-079c04a696f355e37",
        "endpoint service",
    ),
    ("entry.$(System).$(Region):8182", "placeholder"),
    ("entry.<system>.<region>.datomic.net:8182", "placeholder"),
];

/// Hosts with words of the warning.
pub(super) const ODD: &[(&str, &str)] = &[
    ("x1y2.execute-api.us-east-1.amazonaws.com", "API Gateway"),
    ("bucket.s3.us-east-1.amazonaws.com", "bucket"),
    (
        "vpce-083453c598589f6ba.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
        "8 characters",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west.vpce.amazonaws.com",
        "`us-west` stands",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.vpce.amazonaws.com",
        "`vpce` stands",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a-us-east-1a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
        "us-east-1a is not in",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e3x.us-west-2.vpce.amazonaws.com",
        "no id of an endpoint service",
    ),
    (
        "vpce-083453c59858zz6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
        "no id of an endpoint:",
    ),
    (
        "vpce-083453c598589f6ba-s7g7.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
        "`s7g7` is not",
    ),
    (
        "vcpe-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com",
        "begins with vpce-",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.co",
        "usually end in amazonaws.com",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.ec2.us-west-2.vpce.amazonaws.com",
        "AWS service ec2",
    ),
    (
        "us-east-1a.my-nlb.elb.us-west-2.amazonaws.com",
        "us-east-1a is not in",
    ),
    ("entry.prod.us-east-1", "entry.prod.us-east-1.datomic.net"),
    (
        "entry-http.prod.us-east-1.datomic.com",
        "ends in datomic.net",
    ),
    ("entry.prod.datomic.net", "region is missing"),
    ("entry.prod.useast1.datomic.net", "`useast1` is no region"),
    ("prod.us-east-1.datomic.net", "hosted zone"),
    ("www.datomic.net", "no name of this shape"),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.us-west-2.vpce.amazonaws.com.cn",
        "us-west-2 usually end in amazonaws.com",
    ),
    (
        "vpce-083453c598589f6ba-s7g7d18a.vpce-svc-079c04a696f355e37.cn-north-1.vpce.amazonaws.com",
        "cn-north-1 usually end in amazonaws.com.cn",
    ),
    (
        "my-nlb-0123.elb.eusc-de-east-1.amazonaws.com",
        "usually end in amazonaws.eu",
    ),
];
