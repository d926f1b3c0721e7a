//! Queues a run that follows the plan.

use crate::{
    access::Action,
    command::ExecutePlan,
    error::ForgeError,
    ports::store::Changes,
    request::{Plan, RequestState},
    run::Run,
    usecases::{find_request, queue_run},
    wiring::Ports,
};

/// Carries out [`ExecutePlan`].
pub(crate) async fn execute_plan(ports: &Ports, command: ExecutePlan) -> Result<Run, ForgeError> {
    command.caller.may(Action::Submit)?;
    let request = find_request(ports, &command.caller.tenant, command.request).await?;
    let Some(plan) = request.plan.as_ref().filter(|_| request.state == RequestState::PlanReady) else {
        return Err(ForgeError::conflict(format!(
            "a request that is {} has no plan to execute; make one first",
            request.state
        )));
    };
    if !ports.journal.store().waiting_jobs(request.id).await?.is_empty() {
        return Err(ForgeError::conflict("the plan is queued already"));
    }
    let prompt = prompt_with_plan(request.prompt.as_str(), plan);
    let mut changes = Changes::default();
    let run = queue_run(ports, &request, prompt, &mut changes);
    ports.journal.commit(changes).await?;
    Ok(run)
}

fn prompt_with_plan(prompt: &str, plan: &Plan) -> String {
    let steps = plan.steps.iter().enumerate().map(|(i, step)| format!("{}. {}\n", i + 1, step.description));
    format!("{prompt}\n\nFollow this plan:\n{}", steps.collect::<String>())
}
