//! What the usual last words of ssh, aws and similar commands mean, and what to do.

/// A text that a command may say, and what it means. The first that fits the newest line counts.
const MEANINGS: &[(&str, &str)] = &[
    (
        "remote host identification has changed",
        "the host key has changed: check with its owner, then `ssh-keygen -R HOST`",
    ),
    (
        "host key verification failed",
        "the host key is not known: connect once by hand with ssh and compare the key",
    ),
    (
        "permission denied (",
        "the server accepts none of the keys: `ssh-add -l`, and the user name in the URL",
    ),
    (
        "too many authentication failures",
        "the agent offers too many keys: IdentitiesOnly in ~/.ssh/config",
    ),
    (
        "agent has no identities",
        "the ssh agent is empty: `ssh-add`",
    ),
    (
        "could not open a connection to your authentication agent",
        "no ssh agent is running: `eval $(ssh-agent)` and `ssh-add`",
    ),
    (
        "bad owner or permissions",
        "a file of ssh can be written by others: `chmod 600 ~/.ssh/config`",
    ),
    (
        "unprotected private key file",
        "the private key can be read by others: `chmod 600` it",
    ),
    (
        "could not resolve hostname",
        "the name of the ssh server is not known here: VPN, spelling, ~/.ssh/config",
    ),
    (
        "name or service not known",
        "the name of the server is not known here: VPN, spelling",
    ),
    (
        "connection refused",
        "nothing listens there: is the server up, is the port right?",
    ),
    ("no route to host", "no route to the server: is the VPN up?"),
    (
        "network is unreachable",
        "this machine has no network, or no route there",
    ),
    (
        "connection timed out",
        "the server does not answer: security group, VPN, address",
    ),
    (
        "operation timed out",
        "the server does not answer: security group, VPN, address",
    ),
    (
        "administratively prohibited",
        "the server does not allow forwarding: AllowTcpForwarding in its sshd_config",
    ),
    (
        "address already in use",
        "the local port is taken by another program",
    ),
    ("cannot listen to port", "the local port cannot be had"),
    (
        "kex_exchange_identification",
        "the server ended the connection at once: MaxStartups, a firewall, or not an ssh server",
    ),
    (
        "connection closed by",
        "the server ended the connection: its log says why",
    ),
    ("broken pipe", "the connection was lost"),
    ("client_loop: send disconnect", "the connection was lost"),
    (
        "timeout, server",
        "the server stopped answering (ServerAlive)",
    ),
    (
        "sessionmanagerplugin is not found",
        "install the Session Manager plugin for the AWS CLI",
    ),
    (
        "session-manager-plugin",
        "install the Session Manager plugin for the AWS CLI",
    ),
    (
        "token has expired",
        "the SSO login has expired: `aws sso login`",
    ),
    ("error loading sso token", "no SSO login: `aws sso login`"),
    (
        "expiredtoken",
        "the AWS credentials have expired: log in again",
    ),
    (
        "unable to locate credentials",
        "no AWS credentials: `aws configure`, AWS_PROFILE, or profile= in the URL",
    ),
    (
        "you must specify a region",
        "no AWS region: region= in the URL, or AWS_REGION",
    ),
    (
        "targetnotconnected",
        "the instance is not connected to SSM: its agent, its role, its route to SSM",
    ),
    (
        "is not connected",
        "the instance is not connected to SSM: its agent, its role, its route to SSM",
    ),
    (
        "accessdenied",
        "the AWS identity may not start the session: ssm:StartSession",
    ),
    (
        "invalidinstanceid",
        "there is no such instance in this region and account",
    ),
    (
        "no such file or directory",
        "a file that the command names does not exist",
    ),
];

/// The meaning of the newest line that has one.
pub fn meaning(lines: &[String]) -> Option<&'static str> {
    lines.iter().rev().find_map(|line| {
        let line = line.to_ascii_lowercase();
        let known = MEANINGS.iter().find(|(text, _)| line.contains(text));
        known.map(|(_, meaning)| *meaning)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_last_words_are_explained() {
        for (said, part) in [
            (
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
                "host key",
            ),
            ("Host key verification failed.", "host key"),
            ("me@bastion: Permission denied (publickey).", "keys"),
            (
                "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures",
                "agent",
            ),
            ("The agent has no identities.", "ssh-add"),
            (
                "ssh: Could not resolve hostname bastion: Name or service not known",
                "not known here",
            ),
            (
                "ssh: connect to host bastion port 22: Connection refused",
                "listens",
            ),
            (
                "ssh: connect to host bastion port 22: No route to host",
                "VPN",
            ),
            (
                "ssh: connect to host bastion port 22: Connection timed out",
                "does not answer",
            ),
            (
                "channel 2: open failed: administratively prohibited: open failed",
                "AllowTcpForwarding",
            ),
            ("bind [127.0.0.1]:1080: Address already in use", "taken"),
            (
                "kex_exchange_identification: Connection closed by remote host",
                "at once",
            ),
            ("client_loop: send disconnect: Broken pipe", "lost"),
            (
                "Timeout, server bastion not responding.",
                "stopped answering",
            ),
            (
                "SessionManagerPlugin is not found. Please refer to SessionManager Documentation here",
                "plugin",
            ),
            (
                "Error when retrieving token from sso: Token has expired and refresh failed",
                "sso login",
            ),
            (
                "An error occurred (TargetNotConnected) when calling the StartSession operation: i-1 is not connected.",
                "agent",
            ),
            (
                "An error occurred (AccessDeniedException) when calling the StartSession operation",
                "StartSession",
            ),
            (
                "Unable to locate credentials. You can configure credentials by running \"aws configure\".",
                "AWS_PROFILE",
            ),
            (
                "You must specify a region. You can also configure your region by running \"aws configure\".",
                "region=",
            ),
        ] {
            let lines = ["debug".to_owned(), said.to_owned()];
            let meaning = meaning(&lines).unwrap_or_else(|| panic!("{said}"));
            assert!(meaning.contains(part), "{said}: {meaning}");
        }
        assert_eq!(meaning(&["hello".to_owned()]), None);
    }
}
