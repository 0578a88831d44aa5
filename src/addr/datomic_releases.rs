//! What stands in front of a Datomic Cloud system, by release, and which private ways lead to it.

/// A span of Datomic Cloud releases and how one gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseSpan {
    pub releases: &'static str,
    pub dates: &'static str,
    /// What listens on port 8182.
    pub front: &'static str,
    /// The private ways in.
    pub ways: &'static str,
}

/// The first release behind a network load balancer of Datomic's own, onto which a VPC endpoint can be made.
pub const FIRST_WITH_NLB: u32 = 397;
/// The first release behind an application load balancer again.
pub const FIRST_WITH_ALB: u32 = 884;

/// Oldest first; dates as in Datomic's change log.
pub const RELEASES: [ReleaseSpan; 3] = [
    ReleaseSpan {
        releases: "before 397-8384",
        dates: "until June 2018",
        front: "an application load balancer",
        ways: "VPC peering with entry.SYSTEM.REGION.datomic.net; no VPC endpoint",
    },
    ReleaseSpan {
        releases: "397-8384 to 781-9041",
        dates: "June 2018 to March 2021",
        front: "a network load balancer (Production topology; Solo never had one)",
        ways: "a VPC endpoint (PrivateLink) straight onto it, or VPC peering with entry.SYSTEM.REGION.datomic.net",
    },
    ReleaseSpan {
        releases: "884-9095 and later",
        dates: "since July 2021",
        front: "an application load balancer, and an API Gateway in public",
        ways: "VPC peering with entry-http.SYSTEM.REGION.datomic.net, or a VPC endpoint onto a network load balancer of \
               your own in front of it; the API Gateway needs no proxy (its limits: 30 s and 10 MB a request)",
    },
];

/// What is worth knowing when the target is a VPC endpoint.
pub const VPCE_NOTE: &str = "a VPC endpoint straight onto Datomic's own load balancer exists for releases 397 to 781 \
    only; from 884 on it must lead to a network load balancer of your own in front of Datomic's, and older releases \
    have VPC peering only";

/// What is worth knowing when the target is a peered name.
pub const PEERING_NOTE: &str = "entry-http.… answers from release 884 on, entry.… before it; both resolve only in a \
    VPC that is associated with the hosted zone SYSTEM.REGION.datomic.net";

/// What is worth knowing when the target is an API Gateway.
pub const GATEWAY_NOTE: &str = "an API Gateway, which applications reach over https without a proxy (its limits: 30 s \
    and 10 MB a request); entryway leads to Datomic's private port 8182";
