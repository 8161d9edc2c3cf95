//! How many connections there may be, and how those of machines that are gone are found.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};

/// Open files that are left for the store, the mirror and the administrator.
const OTHERS: u64 = 1024;

/// When an idle connection is asked whether it is still there; gateways on the way forget one that is silent for longer (in AWS after 350 s).
const IDLE: Duration = Duration::from_secs(60);
/// How long its answer is waited for.
const ANSWER: Duration = Duration::from_secs(15);
/// How often it is asked before it is given up.
const PROBES: u32 = 4;

/// How many connections there may be where `wanted` are: no more than this process may open.
#[must_use]
pub fn most(wanted: usize) -> usize {
    let most = fitting(wanted, getrlimit(Resource::Nofile).current);
    if most < wanted {
        tracing::warn!("{most} connections at most, for no more files may be open (`ulimit -n`, LimitNOFILE=)");
    }
    most
}

fn fitting(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    // Of few, half is left for others.
    let most = files.saturating_sub(OTHERS).max(files / 2).max(1);
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
}

/// Keeps a connection known on its way while it waits, and ends it soon when nobody is at the other end any more.
///
/// # Errors
/// The kernel's.
pub fn keep_alive(stream: impl AsFd) -> io::Result<()> {
    let stream = stream.as_fd();
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, ANSWER)?;
    Ok(sockopt::set_tcp_keepcnt(stream, PROBES)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_connections_than_files_may_be_open() {
        for (wanted, files, most) in [
            (65_536, Some(65_536), 64_512),
            (65_536, Some(131_072), 65_536),
            (65_536, Some(1024), 512),
            (100, Some(65_536), 100),
            (100, None, 100),
            (100, Some(0), 1),
        ] {
            assert_eq!(fitting(wanted, files), most, "{wanted} of {files:?}");
        }
    }

    #[test]
    fn idle_connections_are_looked_after() {
        let listener = std::net::TcpListener::bind("[::1]:0").expect("bound");
        let stream = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        keep_alive(&stream).expect("set");
        assert!(sockopt::socket_keepalive(&stream).expect("read"));
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("read"), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("read"), ANSWER);
        assert_eq!(sockopt::tcp_keepcnt(&stream).expect("read"), PROBES);
    }
}
