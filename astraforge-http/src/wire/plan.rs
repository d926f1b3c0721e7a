//! Plans.

use astraforge_core::{
    id::RequestId,
    request::{Plan, PlanStep},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Names the request that a plan is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanBody {
    /// The request.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
}

/// How an agent means to go about a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// What will be done, in order.
    pub steps: Vec<PlanStepView>,
    /// The plan in a sentence, with who made it.
    pub summary: String,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStepView {
    /// What is to be done.
    pub description: String,
    /// Whether it was done.
    pub completed: bool,
    /// What could go wrong.
    pub risk: Option<String>,
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        Self { steps: plan.steps.into_iter().map(PlanStepView::from).collect(), summary: plan.summary }
    }
}

impl From<PlanStep> for PlanStepView {
    fn from(step: PlanStep) -> Self {
        Self { description: step.description, completed: step.completed, risk: step.risk }
    }
}
