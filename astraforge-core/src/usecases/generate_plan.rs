//! Makes a plan for a request that has not begun, or has failed.

use futures::FutureExt;

use crate::{
    access::Action,
    command::GeneratePlan,
    error::ForgeError,
    event::EventKind,
    ports::store::Changes,
    request::{Plan, RequestState},
    usecases::{decide, find_request},
    wiring::Ports,
};

/// The states that a request passes on its way to a plan.
const WAY: [RequestState; 3] = [RequestState::SpecReady, RequestState::ChatReviewed, RequestState::PlanReady];

/// Carries out [`GeneratePlan`].
pub(crate) async fn generate_plan(ports: &Ports, command: GeneratePlan) -> Result<Plan, ForgeError> {
    command.caller.may(Action::Submit)?;
    let tenant = &command.caller.tenant;
    let request = find_request(ports, tenant, command.request).await?;
    if !ports.journal.store().waiting_jobs(request.id).await?.is_empty() {
        return Err(ForgeError::conflict(
            "a run of this request is queued already; a plan is made before: submit with `start: after_plan`",
        ));
    }
    walk(request.state)?;
    let link = ports.journal.store().link(tenant, request.repository).await?;
    let environment = link.map(|link| link.environment).unwrap_or_default();
    let plan = ports.executor.plan(request.prompt.as_str(), &environment).await?;

    decide(ports, tenant, command.request, |ports, mut request| {
        let plan = plan.clone();
        async move {
            for state in walk(request.state)? {
                request.become_state(*state, ports.journal.clock().now())?;
            }
            request.plan = Some(plan.clone());
            let event = EventKind::status("spec", format!("Plan ready: {} steps", plan.steps.len()));
            let changes = Changes { events: vec![ports.journal.event(request.id, None, event)], ..Changes::default() };
            Ok((Some(request), changes, plan))
        }
        .boxed()
    })
    .await
}

/// The states still to pass from `state`.
fn walk(state: RequestState) -> Result<&'static [RequestState], ForgeError> {
    if let Some(at) = WAY.iter().position(|passed| *passed == state) {
        return Ok(&WAY[at + 1..]);
    }
    if state.can_become(RequestState::SpecReady) {
        return Ok(&WAY);
    }
    Err(ForgeError::conflict(format!("a request that is {state} cannot be planned; a plan is made before work begins")))
}
