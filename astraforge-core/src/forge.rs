//! The facade: one boxed tower service a command, and plain methods that call them.

use std::{fmt, sync::Arc};

use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

pub use crate::wiring::{Ports, Settings};
use crate::{
    BoxError,
    command::{
        ApproveChange, CancelRun, ChatReview, Command, ExecutePlan, ExecuteRequest, GeneratePlan, OpenMergeRequest,
        ReviewMergeRequest, SubmitRequest,
    },
    error::ForgeError,
    journal::Journal,
    ports::store::Store,
    usecases,
};

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

macro_rules! forge {
    ($($(#[$doc:meta])* $method:ident: $command:ident = $usecase:path, $with:ident;)*) => {
        /// Carries out commands. Clones share everything.
        ///
        /// Three doors, as a team needs them: [`Forge::new`] with the stack as it is; [`ForgeBuilder::layer`] to put
        /// a tower layer around every command; `ForgeBuilder::with_…` to carry one command out in a way of your own.
        #[derive(Clone)]
        pub struct Forge {
            ports: Arc<Ports>,
            $($method: CommandService<$command>,)*
        }

        /// Builds a [`Forge`].
        #[must_use = "a builder does nothing until `build`"]
        pub struct ForgeBuilder {
            ports: Arc<Ports>,
            $($method: CommandService<$command>,)*
        }

        impl ForgeBuilder {
            fn new(ports: Arc<Ports>) -> Self {
                Self {
                    $($method: {
                        let ports = ports.clone();
                        BoxCloneSyncService::new(service_fn(move |command: $command| {
                            let ports = ports.clone();
                            async move { $usecase(&ports, command).await.map_err(BoxError::from) }
                        }))
                    },)*
                    ports,
                }
            }

            /// Puts a layer around every command. The last one added is met first.
            pub fn layer<L>(self, layer: L) -> Self
            where
                $(L: LayerFor<$command>,)*
            {
                Self {
                    ports: self.ports,
                    $($method: LayerFor::<$command>::wrap(&layer, self.$method),)*
                }
            }

            $(
                #[doc = concat!("Carries out [`", stringify!($command), "`] with a service of your own.")]
                pub fn $with(mut self, service: CommandService<$command>) -> Self {
                    self.$method = service;
                    self
                }
            )*

            /// Builds the facade.
            #[must_use]
            pub fn build(self) -> Forge {
                Forge { ports: self.ports, $($method: self.$method,)* }
            }
        }

        impl Forge {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`ForgeError`], as the use case gives it; [`ForgeError::Layer`] from a layer around it.
                pub async fn $method(
                    &self,
                    command: $command,
                ) -> Result<<$command as Command>::Answer, ForgeError> {
                    self.$method.clone().oneshot(command).await.map_err(ForgeError::from_layers)
                }
            )*
        }
    };
}

forge! {
    /// Accepts a request.
    submit: SubmitRequest = usecases::submit_request::submit_request, with_submit;
    /// Adds a message to the conversation, and queues a run.
    chat: ChatReview = usecases::chat_review::chat_review, with_chat;
    /// Makes a plan.
    plan: GeneratePlan = usecases::generate_plan::generate_plan, with_plan;
    /// Queues a run that follows the plan.
    execute_plan: ExecutePlan = usecases::execute_plan::execute_plan, with_execute_plan;
    /// Queues a run.
    execute: ExecuteRequest = usecases::execute_request::execute_request, with_execute;
    /// Stops runs.
    cancel: CancelRun = usecases::cancel::cancel, with_cancel;
    /// Approves a change.
    approve: ApproveChange = usecases::approve_change::approve_change, with_approve;
    /// Publishes an approved change.
    open_merge_request: OpenMergeRequest = usecases::open_merge_request::open_merge_request, with_open_merge_request;
    /// Reviews a merge request.
    review: ReviewMergeRequest = usecases::review::review_merge_request, with_review;
}

impl Forge {
    /// A facade with nothing around its services.
    #[must_use]
    pub fn new(ports: Ports) -> Self {
        Self::builder(ports).build()
    }

    /// A facade whose services get layers, or are replaced.
    pub fn builder(ports: Ports) -> ForgeBuilder {
        ForgeBuilder::new(Arc::new(ports))
    }

    /// What was stored, for reading.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.ports.journal.store()
    }

    /// The journal, to follow run logs.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.ports.journal
    }

    /// The ports it was built from.
    #[must_use]
    pub fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl fmt::Debug for ForgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForgeBuilder").field("ports", &self.ports).finish_non_exhaustive()
    }
}
