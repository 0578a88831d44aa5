//! Adding, changing and removing proxies: what opens and closes their listeners and ends their connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{ENDING, Engine, lock};
use crate::connection::{ListenerContext, WhenAllDown};
use crate::events::{Reason, event};
use crate::faults::proxy::{EngineError, ProxySpec, ProxyView, differs};
use crate::relay::ConnectionCommand;
use crate::types::ListenerName;

/// The sockets of a listener are opened and closed within this time, unless something is in the way.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

// === impl Engine ===

impl Engine {
    /// Adds a proxy with a listener of its own, which accepts when this is done, unless it is to be disabled.
    pub async fn create(
        &self,
        name: &str,
        listen: &str,
        upstream: &str,
        enabled: bool,
    ) -> Result<ProxyView, EngineError> {
        let _opening = self.inner.opening.lock().await;
        if self.proxy(name).is_ok() {
            return Err(EngineError::ProxyExists);
        }
        self.create_now(name, listen, upstream, enabled)
    }

    fn create_now(
        &self,
        name: &str,
        listen: &str,
        upstream: &str,
        enabled: bool,
    ) -> Result<ProxyView, EngineError> {
        let mut spec = ProxySpec {
            name: name.to_owned(),
            listen: listen.to_owned(),
            upstream: upstream.to_owned(),
            context: None,
            is_configured: false,
        };
        if enabled {
            self.open(&mut spec)?;
        }
        self.insert(spec, enabled);
        self.proxy(name)
    }

    /// Opens the listener of a proxy that was added; without an address on any port of the loopback interface.
    fn open(&self, spec: &mut ProxySpec) -> Result<(), EngineError> {
        let listen = match spec.listen.as_str() {
            "" => "127.0.0.1:0".to_owned(),
            listen => listen.replace("localhost", "127.0.0.1"),
        };
        let opened = self
            .inner
            .listeners
            .open(&spec.name, &listen, &spec.upstream);
        let opened = opened.map_err(EngineError::Listen)?;
        opened.context.set_detour(Arc::new(self.clone()));
        spec.listen = opened.listen;
        spec.context = Some(opened.context);
        Ok(())
    }

    /// Adds a proxy, or replaces one that listens or leads elsewhere; one that does not differ stays as it is.
    pub async fn create_or_replace(
        &self,
        name: &str,
        listen: &str,
        upstream: &str,
        enabled: bool,
    ) -> Result<ProxyView, EngineError> {
        let _opening = self.inner.opening.lock().await;
        if let Ok(proxy) = self.proxy(name) {
            if !differs(&proxy, listen, upstream)? {
                return Ok(proxy);
            }
            self.may_change(name)?;
            self.close(name).await?;
        }
        self.create_now(name, listen, upstream, enabled)
    }

    /// Lets a proxy listen or lead elsewhere, accept or refuse; its toxics stay.
    pub async fn update(
        &self,
        name: &str,
        listen: &str,
        upstream: &str,
        enabled: bool,
    ) -> Result<ProxyView, EngineError> {
        let _opening = self.inner.opening.lock().await;
        let proxy = self.proxy(name)?;
        if differs(&proxy, listen, upstream)? {
            self.may_change(name)?;
            self.close(name).await?;
            if let Some(proxy) = self.inner.lock().get_mut(name) {
                listen.clone_into(&mut proxy.spec.listen);
                upstream.clone_into(&mut proxy.spec.upstream);
            }
        }
        self.set_enabled(name, enabled).await?;
        self.proxy(name)
    }

    /// Takes a proxy out, with its listener and its connections.
    pub async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let _opening = self.inner.opening.lock().await;
        self.proxy(name)?;
        self.may_change(name)?;
        self.close(name).await?;
        let removed = self.inner.lock().remove(name);
        for toxic in removed.iter().flat_map(|proxy| &proxy.toxics) {
            self.inner.cleared(name, toxic);
        }
        self.inner.changed();
        lock(&self.inner.removed).push(name.to_owned());
        self.inner.clock.notify_one();
        Ok(())
    }

    fn may_change(&self, name: &str) -> Result<(), EngineError> {
        let proxies = self.inner.lock();
        match proxies.get(name) {
            Some(proxy) if proxy.spec.is_configured => Err(EngineError::Configured(format!(
                "{name} is a listener of the settings: it cannot be deleted, and its listen and upstream cannot be \
                 changed here"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) async fn set_enabled(&self, name: &str, enabled: bool) -> Result<(), EngineError> {
        let (mut spec, is_enabled) = {
            let proxies = self.inner.lock();
            let proxy = proxies.get(name).ok_or(EngineError::ProxyNotFound)?;
            (proxy.spec.clone(), proxy.enabled)
        };
        if is_enabled == enabled {
            return Ok(());
        }
        if !enabled {
            return self.close(name).await;
        }
        let settled = match spec.context.clone().filter(|_| spec.is_configured) {
            Some(context) => {
                context.set_refusing(false);
                accepts(&context, true).await
            }
            None => {
                self.open(&mut spec)?;
                true
            }
        };
        if let Some(proxy) = self.inner.lock().get_mut(name) {
            proxy.enabled = true;
            proxy.spec = spec;
            self.inner.count(proxy);
        }
        event!(
            self.inner.events,
            INFO,
            "fault.clear",
            "a listener accepts again",
            listener = name,
            "type" = "down",
        );
        self.inner.changed();
        match settled {
            true => Ok(()),
            false => {
                Err(self.unsettled(name, "does not accept again yet; it is tried every second"))
            }
        }
    }

    /// A listener is not as it was asked to be: said in the log, and to whoever has asked.
    fn unsettled(&self, name: &str, how: &str) -> EngineError {
        let text = format!("{name} {how}");
        event!(
            self.inner.events,
            WARN,
            "fault.set",
            text,
            listener = name,
            "type" = "down",
        );
        EngineError::Listen(text)
    }

    /// Closes the sockets of a proxy, and then its connections.
    async fn close(&self, name: &str) -> Result<(), EngineError> {
        let configured = {
            let mut proxies = self.inner.lock();
            let Some(proxy) = proxies.get_mut(name).filter(|proxy| proxy.enabled) else {
                return Ok(());
            };
            proxy.enabled = false;
            let context = match proxy.spec.is_configured {
                true => proxy.spec.context.clone(),
                false => {
                    proxy.spec.context = None;
                    None
                }
            };
            self.inner.count(proxy);
            context
        };
        event!(
            self.inner.events,
            INFO,
            "fault.set",
            "a listener refuses",
            listener = name,
            "type" = "down",
        );
        let settled = match configured {
            Some(context) => {
                context.set_refusing(true);
                accepts(&context, false).await
            }
            None => {
                self.inner.listeners.close(name).await;
                true
            }
        };
        self.inner.changed();
        let started = Instant::now();
        let listener = ListenerName::new(name);
        // Those that are not connected yet would not see that their proxy is closed.
        while started.elapsed() < ENDING {
            let mut left = false;
            self.inner.registry.each(|entry| {
                if entry.listener == listener {
                    left = true;
                    if entry.candidate().is_none() {
                        entry.commands.send(ConnectionCommand::Cut(Reason::Killed));
                    } else {
                        entry.commands.set_diverted(true);
                    }
                }
            });
            if !left {
                break;
            }
            tokio::time::sleep(ENDING / 50).await;
        }
        match settled {
            true => Ok(()),
            false => Err(self.unsettled(name, "still accepts after a second")),
        }
    }
}

/// Waits until the sockets of a listener of the settings are as they should be, a second at most; whether they are. Where
/// somebody else holds them, or mode `refuse` keeps them closed, they stay what they are.
async fn accepts(context: &ListenerContext, wanted: bool) -> bool {
    if context.is_shared() {
        return true;
    }
    let settled = timeout(SETTLES_WITHIN, context.accepts(wanted)).await;
    let may_stay_closed = context.policy.load().when_all_down == WhenAllDown::Refuse;
    settled.is_ok() || wanted && may_stay_closed
}
