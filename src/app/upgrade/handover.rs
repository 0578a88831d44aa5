//! What passes between the process that is replaced and the one that replaces it, and the new one's side of it.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::PATIENCE;
use crate::admin::InheritedAdmin;
use crate::sandbox::HANDOVER;
use crate::settings::differences;
use crate::sys::descriptors;
use crate::sys::process::take_stdin_stream;

/// What an old process offers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    /// The new process's.
    pub(super) generation: u64,
    pub(super) parent_pid: u32,
    /// The first process is the parent of a command.
    pub(super) is_wrapped: bool,
    /// The settings of the old process, to say what differs.
    pub(super) settings: serde_json::Value,
    /// What each descriptor is, in the order of the descriptors.
    pub(super) descriptors: Vec<Carried>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Carried {
    /// A socket of the listener with this name.
    Listener {
        name: String,
        /// A service manager holds it as well, and chose its address.
        is_managed: bool,
    },
    Admin,
    Metrics,
    Control {
        path: PathBuf,
    },
    /// Closed when an older process has drained.
    Older,
    /// To the first process.
    First,
}

/// What the two processes tell each other afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    Ready,
    Go,
    Serving {
        /// Settings that differ.
        changed: Vec<String>,
    },
}

/// What a process gets from the one that it replaces.
#[derive(Debug)]
pub struct Handover {
    offer: Offer,
    link: StdStream,
    listeners: Vec<(String, bool, TcpListener)>,
    admin: InheritedAdmin,
    older: Vec<StdStream>,
    first: Option<StdStream>,
}

/// A listener's sockets as the old process had them.
#[derive(Debug, Default)]
pub(in crate::app) struct HandedOver {
    pub(in crate::app) sockets: Vec<TcpListener>,
    pub(in crate::app) is_managed: bool,
}

/// Where this process stands in the row of those that replaced each other.
#[derive(Debug)]
pub(in crate::app) struct Lineage {
    pub(in crate::app) generation: u64,
    pub(in crate::app) parent_pid: Option<u32>,
    /// The first process is the parent of a command.
    pub(super) is_wrapped: bool,
    pub(super) older: Vec<StdStream>,
    pub(super) first: Option<StdStream>,
}

/// The new process's end of the handover, once everything that could fail is done.
#[derive(Debug)]
pub(in crate::app) struct Promise {
    link: UnixStream,
    settings: serde_json::Value,
}

// === impl Handover ===

impl Handover {
    /// What the process that has started this one hands over, where it does.
    pub fn take(get: impl Fn(&str) -> Option<OsString>) -> io::Result<Option<Self>> {
        if get(HANDOVER).is_none() {
            return Ok(None);
        }
        let link = take_stdin_stream()?;
        link.set_read_timeout(Some(PATIENCE))?;
        let (bytes, descriptors) = descriptors::receive(&link)?;
        link.set_read_timeout(None)?;
        let offer: Offer = serde_json::from_slice(&bytes)?;
        if offer.descriptors.len() != descriptors.len() {
            return Err(io::Error::other("sockets are missing from the handover"));
        }
        let mut handover = Self {
            link,
            listeners: Vec::new(),
            admin: InheritedAdmin::default(),
            older: Vec::new(),
            first: None,
            offer,
        };
        for (what, descriptor) in handover
            .offer
            .descriptors
            .clone()
            .into_iter()
            .zip(descriptors)
        {
            handover.sort(what, descriptor);
        }
        Ok(Some(handover))
    }

    fn sort(&mut self, what: Carried, descriptor: OwnedFd) {
        match what {
            Carried::Listener { name, is_managed } => {
                self.listeners.push((name, is_managed, descriptor.into()));
            }
            Carried::Admin => self.admin.admin = Some(descriptor.into()),
            Carried::Metrics => self.admin.metrics = Some(descriptor.into()),
            Carried::Control { path } => self.admin.control = Some((descriptor.into(), path)),
            Carried::Older => self.older.push(descriptor.into()),
            Carried::First => self.first = Some(descriptor.into()),
        }
    }

    /// Whether the first process is the parent of a command, and lives on.
    pub fn is_wrapped(&self) -> bool {
        self.offer.is_wrapped
    }

    /// The sockets of this listener; each can be taken once.
    pub(in crate::app) fn sockets_of(&mut self, name: &str) -> HandedOver {
        let (own, others) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(listener, ..)| listener == name);
        self.listeners = others;
        let own: Vec<(String, bool, TcpListener)> = own;
        HandedOver {
            is_managed: own.iter().any(|(_, is_managed, _)| *is_managed),
            sockets: own.into_iter().map(|(.., socket)| socket).collect(),
        }
    }

    /// A listener whose sockets nobody has taken.
    pub(in crate::app) fn left_over(&self) -> Option<&str> {
        self.listeners.first().map(|(name, ..)| name.as_str())
    }

    pub(in crate::app) fn admin(&mut self) -> InheritedAdmin {
        std::mem::take(&mut self.admin)
    }

    pub(in crate::app) fn split(self) -> io::Result<(Lineage, Promise)> {
        self.link.set_nonblocking(true)?;
        let promise = Promise {
            link: UnixStream::from_std(self.link.try_clone()?)?,
            settings: self.offer.settings,
        };
        let mut older = self.older;
        // The one that started us drains as well.
        older.push(self.link);
        let lineage = Lineage {
            generation: self.offer.generation,
            parent_pid: Some(self.offer.parent_pid),
            is_wrapped: self.offer.is_wrapped,
            older,
            first: self.first,
        };
        Ok((lineage, promise))
    }
}

// === impl Lineage ===

impl Lineage {
    /// Of a process that replaces none.
    pub(in crate::app) fn first() -> Self {
        Self {
            generation: 1,
            parent_pid: None,
            is_wrapped: false,
            older: Vec::new(),
            first: None,
        }
    }
}

// === impl Promise ===

impl Promise {
    /// Says that everything is there, and waits for the old process's permission. It may have ended meanwhile: then
    /// there is nobody to wait for.
    pub(in crate::app) async fn ready(&mut self) -> io::Result<()> {
        say(&mut self.link, &Word::Ready).await?;
        match timeout(PATIENCE, hear(&mut self.link)).await?? {
            Word::Go => Ok(()),
            other => Err(io::Error::other(format!("unexpected word {other:?}"))),
        }
    }

    /// Says that this process serves, with the settings in which it differs from the old one; returns them.
    pub(in crate::app) async fn serving(mut self, settings: &serde_json::Value) -> Vec<String> {
        let changed = differences(&self.settings, settings);
        let word = Word::Serving {
            changed: changed.clone(),
        };
        // Where the old process has ended there is nobody to tell.
        let _ = say(&mut self.link, &word).await;
        changed
    }
}

pub(super) fn nonblocking(stream: StdStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A message without descriptors, as `sys::descriptors` writes it.
pub(super) async fn say(link: &mut UnixStream, word: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(word)?;
    link.write_u32(u32::try_from(bytes.len()).map_err(io::Error::other)?)
        .await?;
    link.write_all(&bytes).await
}

pub(super) async fn hear<T: serde::de::DeserializeOwned>(link: &mut UnixStream) -> io::Result<T> {
    /// Keys of settings that differ: never more.
    const MAX: u32 = 1 << 20;
    let length = link.read_u32().await?;
    if length > MAX {
        return Err(io::Error::other("the message is too long"));
    }
    let mut bytes = vec![0; length as usize];
    link.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}
