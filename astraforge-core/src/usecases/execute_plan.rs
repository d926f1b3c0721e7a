//! Queues a run that follows the plan.

use futures::FutureExt;

use crate::{
    access::Action,
    command::ExecutePlan,
    error::ForgeError,
    ports::store::Changes,
    request::{Plan, Request, RequestState},
    run::Run,
    usecases::{decide, queue_run},
    wiring::Ports,
};

/// Carries out [`ExecutePlan`].
pub(crate) async fn execute_plan(ports: &Ports, command: ExecutePlan) -> Result<Run, ForgeError> {
    command.caller.may(Action::Submit)?;
    let tenant = &command.caller.tenant;
    decide(ports, tenant, command.request, |ports, request| execute_in(ports, request).boxed()).await
}

async fn execute_in(ports: &Ports, request: Request) -> Result<(Option<Request>, Changes, Run), ForgeError> {
    let Some(plan) = request.plan.as_ref().filter(|_| request.state == RequestState::PlanReady) else {
        return Err(ForgeError::conflict(format!(
            "a request that is {} has no plan to execute; make one first",
            request.state
        )));
    };
    let runs = ports.journal.store().runs_of(request.id).await?;
    if runs.iter().any(|run| !run.status.is_over()) {
        return Err(ForgeError::conflict("the plan is queued already"));
    }
    let prompt = prompt_with_plan(request.prompt.as_str(), plan);
    let mut changes = Changes::default();
    let run = queue_run(ports, &request, prompt, &mut changes);
    // Writing the request, though unchanged, lets only one of two racing commands through.
    Ok((Some(request), changes, run))
}

fn prompt_with_plan(prompt: &str, plan: &Plan) -> String {
    let steps = plan.steps.iter().enumerate().map(|(i, step)| format!("{}. {}\n", i + 1, step.description));
    format!("{prompt}\n\nFollow this plan:\n{}", steps.collect::<String>())
}
