//! The facade: one boxed tower service a command, and plain methods that call them.

use std::{fmt, sync::Arc};

use crate::{
    command::{
        ApproveChange, CancelRun, ChatReview, ExecutePlan, ExecuteRequest, GeneratePlan, OpenMergeRequest,
        ReviewMergeRequest, SubmitRequest,
    },
    facade::facade,
    journal::Journal,
    ports::store::Store,
    usecases,
};
pub use crate::{
    facade::{CommandService, LayerFor},
    wiring::{Ports, Settings},
};

facade! {
    /// Carries out commands. Clones share everything.
    ///
    /// Three doors, as a team needs them: [`Forge::new`] with the stack as it is; [`ForgeBuilder::layer`] to put
    /// a tower layer around every command; `ForgeBuilder::with_…` to carry one command out in a way of your own.
    Forge;
    /// Builds a [`Forge`].
    ForgeBuilder;
    context: Arc<Ports>;
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
        self.context.journal.store()
    }

    /// The journal, to follow run logs.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.context.journal
    }

    /// The ports it was built from.
    #[must_use]
    pub fn ports(&self) -> &Arc<Ports> {
        &self.context
    }
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge").field("ports", &self.context).finish_non_exhaustive()
    }
}

impl fmt::Debug for ForgeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForgeBuilder").field("ports", &self.context).finish_non_exhaustive()
    }
}
