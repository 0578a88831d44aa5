//! Adding, changing and removing proxies: what opens and closes their listeners and ends their connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{ENDING, Engine, lock};
use crate::events::{Reason, event};
use crate::faults::proxy::{EngineError, ProxySpec, ProxyView, differs};
use crate::relay::ConnectionCommand;
use crate::types::ListenerName;

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
            let opened = self.inner.open(name, listen, upstream)?;
            spec.listen = opened.listen;
            spec.context = Some(opened.context);
        }
        self.insert(spec, enabled);
        self.proxy(name)
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
            self.close(name).await;
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
            self.close(name).await;
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
        self.close(name).await;
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
        let (proxy, context) = {
            let proxies = self.inner.lock();
            let proxy = proxies.get(name).ok_or(EngineError::ProxyNotFound)?;
            let context = proxy.spec.context.clone();
            (proxy.view(), context.filter(|_| proxy.spec.is_configured))
        };
        if proxy.enabled == enabled {
            return Ok(());
        }
        if !enabled {
            self.close(name).await;
            return Ok(());
        }
        let opened = match context {
            Some(context) => {
                context.set_refusing(false);
                self.settled(name, true).await;
                None
            }
            None => Some(self.inner.open(name, &proxy.listen, &proxy.upstream)?),
        };
        if let Some(proxy) = self.inner.lock().get_mut(name) {
            proxy.enabled = true;
            if let Some(opened) = opened {
                opened.context.set_detour(Arc::new(self.clone()));
                proxy.spec.listen = opened.listen;
                proxy.spec.context = Some(opened.context);
            }
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
        Ok(())
    }

    /// Closes the sockets of a proxy, and then its connections.
    async fn close(&self, name: &str) {
        let is_configured = {
            let mut proxies = self.inner.lock();
            let Some(proxy) = proxies.get_mut(name).filter(|proxy| proxy.enabled) else {
                return;
            };
            proxy.enabled = false;
            if let Some(context) = &proxy.spec.context
                && proxy.spec.is_configured
            {
                context.set_refusing(true);
            } else {
                proxy.spec.context = None;
            }
            self.inner.count(proxy);
            proxy.spec.is_configured
        };
        event!(
            self.inner.events,
            INFO,
            "fault.set",
            "a listener refuses",
            listener = name,
            "type" = "down",
        );
        if is_configured {
            self.settled(name, false).await;
        } else {
            self.inner.listeners.close(name).await;
        }
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
    }

    /// Waits until a listener's sockets are as they should be, for a second at most.
    async fn settled(&self, name: &str, enabled: bool) {
        let wanted = f64::from(u8::from(enabled));
        for _ in 0..200 {
            let up = self
                .inner
                .metrics
                .value("entryway_listener_up", &[("listener", name)]);
            if up == Some(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
