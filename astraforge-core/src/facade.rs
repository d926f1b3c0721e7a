//! How a facade is made of commands: one boxed tower service each, layers around all of them, and methods that call
//! them, so that no layer can be gone around.

use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::{BoxError, command::Command};

/// The service that carries out one command.
pub type CommandService<C> = BoxCloneSyncService<C, <C as Command>::Answer, BoxError>;

/// A tower layer that fits around the service of command `C`.
///
/// Implemented for every layer that yields a cloneable service of the same command and answer, so an
/// embedder writes ordinary tower layers and names this trait only in bounds.
pub trait LayerFor<C: Command>: sealed::Sealed<C> {
    /// Puts the layer around a service.
    fn wrap(&self, inner: CommandService<C>) -> CommandService<C>;
}

mod sealed {
    /// Keeps [`LayerFor`](super::LayerFor) to the blanket implementation.
    pub trait Sealed<C> {}
}

impl<C, L, S> sealed::Sealed<C> for L
where
    C: Command,
    L: Layer<CommandService<C>, Service = S>,
    S: Service<C, Response = C::Answer>,
{
}

impl<C, L, S> LayerFor<C> for L
where
    C: Command,
    L: Layer<CommandService<C>, Service = S>,
    S: Service<C, Response = C::Answer> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn wrap(&self, inner: CommandService<C>) -> CommandService<C> {
        BoxCloneSyncService::new(self.layer(inner).map_err(Into::into))
    }
}

/// Makes a facade and its builder. What carries a command out is a function of the context and the command.
macro_rules! facade {
    (
        $(#[$facade_doc:meta])* $facade:ident;
        $(#[$builder_doc:meta])* $builder:ident;
        context: $context:ty;
        $($(#[$doc:meta])* $method:ident: $command:ident = $usecase:path, $with:ident;)*
    ) => {
        $(#[$facade_doc])*
        #[derive(Clone)]
        pub struct $facade {
            context: $context,
            $($method: $crate::facade::CommandService<$command>,)*
        }

        $(#[$builder_doc])*
        #[must_use = "a builder does nothing until `build`"]
        pub struct $builder {
            context: $context,
            $($method: $crate::facade::CommandService<$command>,)*
        }

        impl $builder {
            fn new(context: $context) -> Self {
                Self {
                    $($method: {
                        let context = context.clone();
                        tower::util::BoxCloneSyncService::new(tower::service_fn(move |command: $command| {
                            let context = context.clone();
                            async move { $usecase(&context, command).await.map_err($crate::BoxError::from) }
                        }))
                    },)*
                    context,
                }
            }

            /// Puts a layer around every command. The last one added is met first.
            pub fn layer<L>(self, layer: L) -> Self
            where
                $(L: $crate::facade::LayerFor<$command>,)*
            {
                Self {
                    context: self.context,
                    $($method: $crate::facade::LayerFor::<$command>::wrap(&layer, self.$method),)*
                }
            }

            $(
                #[doc = concat!("Carries out [`", stringify!($command), "`] with a service of your own.")]
                pub fn $with(mut self, service: $crate::facade::CommandService<$command>) -> Self {
                    self.$method = service;
                    self
                }
            )*

            /// Builds the facade.
            #[must_use]
            pub fn build(self) -> $facade {
                $facade { context: self.context, $($method: self.$method,)* }
            }
        }

        impl $facade {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                #[doc = "[`ForgeError`](crate::error::ForgeError), as the use case gives it, or"]
                #[doc = "[`ForgeError::Layer`](crate::error::ForgeError::Layer) from a layer around it."]
                pub async fn $method(
                    &self,
                    command: $command,
                ) -> Result<<$command as $crate::command::Command>::Answer, $crate::error::ForgeError> {
                    let called = tower::ServiceExt::oneshot(self.$method.clone(), command);
                    called.await.map_err($crate::error::ForgeError::from_layers)
                }
            )*
        }
    };
}

pub(crate) use facade;
