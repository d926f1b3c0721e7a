//! The registry: providers of one kind by name, made when they are first asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::BoxError;

type Factory<T> = Box<dyn Fn() -> Result<Arc<T>, BoxError> + Send + Sync>;

/// Providers of one kind, such as VCS providers.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_core::registry::Registry;
///
/// let mut greetings: Registry<str> = Registry::new("greeting");
/// greetings.register("english", || Ok(Arc::from("hello")))?;
/// assert_eq!(&*greetings.resolve("english")?, "hello");
/// assert_eq!(
///     greetings.resolve("latin").unwrap_err().to_string(),
///     "there is no greeting `latin`; known are: english",
/// );
/// # Ok::<(), astraforge_core::registry::RegistryError>(())
/// ```
pub struct Registry<T: ?Sized> {
    kind: &'static str,
    entries: BTreeMap<String, Arc<Entry<T>>>,
}

// Clones share what was made.
impl<T: ?Sized> Clone for Registry<T> {
    fn clone(&self) -> Self {
        Self { kind: self.kind, entries: self.entries.clone() }
    }
}

struct Entry<T: ?Sized> {
    factory: Factory<T>,
    made: Mutex<Option<Arc<T>>>,
}

impl<T: ?Sized> Registry<T> {
    /// An empty registry; `kind` names what it holds in errors.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self { kind, entries: BTreeMap::new() }
    }

    /// Adds a provider that is made by `factory` when it is first asked for.
    ///
    /// # Errors
    /// [`RegistryError::AlreadyRegistered`] when the name is taken.
    pub fn register(
        &mut self,
        name: impl Into<String>,
        factory: impl Fn() -> Result<Arc<T>, BoxError> + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        let name = name.into();
        if self.entries.contains_key(&name) {
            return Err(RegistryError::AlreadyRegistered { kind: self.kind, name });
        }
        self.entries.insert(name, Arc::new(Entry { factory: Box::new(factory), made: Mutex::new(None) }));
        Ok(())
    }

    /// Returns the provider of that name, the same one each time.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], which lists the known names, or [`RegistryError::Broken`] when it can't be made.
    pub fn resolve(&self, name: &str) -> Result<Arc<T>, RegistryError> {
        let entry = self.entries.get(name).ok_or_else(|| RegistryError::Unknown {
            kind: self.kind,
            name: name.to_owned(),
            known: self.names(),
        })?;
        let mut made = entry.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = &*made {
            return Ok(provider.clone());
        }
        let provider = (entry.factory)().map_err(|source| RegistryError::Broken {
            kind: self.kind,
            name: name.to_owned(),
            source,
        })?;
        *made = Some(provider.clone());
        Ok(provider)
    }

    /// Lists the known names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }
}

impl<T: ?Sized> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("kind", &self.kind).field("names", &self.names()).finish()
    }
}

/// Why a registry could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nothing has that name.
    #[error("there is no {kind} `{name}`; known are: {}", known.join(", "))]
    Unknown {
        /// What the registry holds.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The known names.
        known: Vec<String>,
    },
    /// The name is taken.
    #[error("there is a {kind} `{name}` already")]
    AlreadyRegistered {
        /// What the registry holds.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The provider can't be made.
    #[error("{kind} `{name}` cannot be set up")]
    Broken {
        /// What the registry holds.
        kind: &'static str,
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_provider_is_made_once_and_when_first_asked_for() {
        let made = Arc::new(AtomicU32::new(0));
        let mut registry: Registry<str> = Registry::new("thing");
        let counter = made.clone();
        registry
            .register("a", move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(Arc::from("a"))
            })
            .unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 0);
        registry.resolve("a").unwrap();
        registry.resolve("a").unwrap();
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_name_is_taken_once() {
        let mut registry: Registry<str> = Registry::new("thing");
        registry.register("a", || Ok(Arc::from("a"))).unwrap();
        let again = registry.register("a", || Ok(Arc::from("b"))).unwrap_err();
        assert_eq!(again.to_string(), "there is a thing `a` already");
    }

    #[test]
    fn a_provider_that_cannot_be_made_is_tried_again() {
        let mut registry: Registry<str> = Registry::new("thing");
        registry.register("a", || Err("no key".into())).unwrap();
        assert!(matches!(registry.resolve("a"), Err(RegistryError::Broken { .. })));
        assert!(matches!(registry.resolve("a"), Err(RegistryError::Broken { .. })));
    }
}
