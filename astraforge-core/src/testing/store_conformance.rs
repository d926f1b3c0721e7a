//! The rules that every store keeps, one function a rule.

#![expect(missing_docs, reason = "the name of a rule says what it is")]

use std::fmt;

use crate::ports::store::{Changes, Expected, RequestChange, Store, StoreError};
use crate::request::Request;

pub mod api_keys;
pub mod archives;
pub mod commits;
pub mod fairness;
pub mod jobs;
pub mod links;
pub mod lists;
pub mod log;
pub mod pages;
pub mod retries;
pub mod round_trips;
pub mod runs;
pub mod schedules;

/// Makes one test of each rule that a [`Store`] keeps.
///
/// The argument is a future of `(guard, store)`: an empty store, and what must live as long as it does, such as a
/// temporary folder. The crate that calls this needs tokio.
///
/// ```
/// astraforge_core::store_conformance!(async { ((), astraforge_core::testing::MemoryStore::default()) });
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($open:expr) => {
        $crate::store_conformance!(@ $open;
            commits:
                a_request_is_found_as_it_was_committed
                what_a_commit_wrote_the_next_read_sees
                the_store_counts_versions_and_ignores_the_callers
                a_commit_without_the_request_leaves_its_version
                a_stale_version_is_a_conflict
                a_version_of_a_request_that_is_not_there_is_a_conflict
                a_request_cannot_be_added_twice
                a_request_of_another_tenant_cannot_be_replaced
                of_two_commits_at_the_same_version_one_wins
                a_conflicting_commit_writes_nothing
                a_commit_with_a_taken_id_writes_nothing
                the_same_new_id_twice_in_one_commit_is_refused
                what_belongs_to_no_request_is_refused
                a_run_of_another_request_or_tenant_cannot_be_replaced
                a_merge_request_of_another_tenant_cannot_be_replaced
                an_empty_commit_changes_nothing
                a_dropped_call_happened_wholly_or_not_at_all;
            round_trips:
                every_state_of_a_request_survives
                a_plan_survives
                long_and_odd_texts_survive
                every_form_of_a_message_survives
                an_attachment_survives
                every_status_and_failure_of_a_run_survives
                a_full_run_survives
                every_form_of_a_change_survives
                every_form_of_an_approval_survives
                every_form_of_a_merge_request_survives
                every_kind_of_event_survives
                every_kind_of_job_survives
                a_full_link_survives
                every_role_of_an_api_key_survives
                times_survive_to_the_microsecond;
            lists:
                requests_are_listed_the_newest_first
                messages_and_attachments_are_listed_the_oldest_first
                approvals_are_listed_the_oldest_first
                merge_requests_are_listed_the_newest_first_and_replaced_in_place
                the_latest_change_set_is_the_one_added_last
                the_merge_request_of_a_request_is_found
                another_tenant_sees_nothing
                what_is_not_there_is_none;
            pages:
                pages_of_requests_hold_the_whole_list
                requests_of_a_state_come_in_pages
                runs_come_in_pages_of_all_requests_and_of_one
                merge_requests_come_in_pages_of_all_requests_and_of_one
                pages_of_links_go_on_where_a_link_was_removed
                api_keys_come_in_pages_the_newest_first
                what_is_added_meanwhile_shifts_no_page
                another_tenants_pages_are_its_own;
            runs:
                runs_are_listed_by_request_and_by_tenant
                a_run_is_replaced
                usage_adds_up
                usage_is_not_lost_beside_a_commit_that_replaces_the_run
                usage_counted_at_the_same_time_adds_up
                usage_of_an_unknown_run_is_passed_over
                a_cancellation_is_seen_and_stays;
            log:
                events_are_counted_from_one_without_a_gap
                a_commit_returns_the_last_number_of_the_requests_log
                each_request_has_its_own_count
                appends_at_the_same_time_leave_no_gap
                reading_resumes_after_a_number_and_stops_at_the_limit
                reading_after_the_end_finds_nothing
                the_events_of_a_run_are_read_in_order
                the_end_of_a_log_is_told
                recent_logs_are_those_that_changed_or_are_at_work
                a_log_may_grow_until_no_run_and_no_job_is_left
                a_batch_with_one_bad_event_writes_none
                a_large_batch_is_written
                appending_nothing_changes_nothing;
            archives:
                logs_at_rest_are_listed_those_that_changed_first_before_others
                a_log_at_work_is_neither_listed_nor_archived
                archived_events_are_rows_no_more_and_numbers_go_on
                only_the_first_rows_of_a_log_are_archived_and_each_once
                the_size_of_logs_is_that_of_their_rows
                of_many_who_archive_the_same_events_one_does
                events_appended_beside_an_archive_are_numbered_after_it;
            jobs:
                the_oldest_job_is_claimed_first
                jobs_of_the_same_time_are_claimed_in_the_order_they_were_added
                a_request_has_one_running_job
                a_claim_counts_an_attempt
                an_ended_job_is_gone_and_the_next_one_follows
                a_job_that_waits_can_be_ended
                ending_an_unknown_job_changes_nothing
                a_job_can_be_ended_and_queued_anew_in_one_commit
                running_and_waiting_jobs_are_listed_the_oldest_first
                claims_at_the_same_time_never_get_the_same_job
                an_empty_queue_gives_nothing
                a_job_cannot_be_queued_twice
                a_lease_is_renewed_by_whoever_holds_the_job
                a_job_whose_lease_ended_is_taken_over_once
                under_a_claim_that_is_lost_nothing_is_written;
            retries:
                a_job_that_failed_waits_for_its_time_and_goes_on_counting
                whoever_had_a_job_that_failed_has_it_no_more
                a_job_that_is_given_back_waits_again_with_no_failure_counted
                what_was_right_for_a_job_as_it_was_seen_is_not_written_once_it_moved
                a_job_that_waits_for_its_time_holds_up_its_own_request_alone
                a_dead_job_is_kept_and_holds_up_nothing
                a_dead_job_is_revived_with_its_failures_forgotten
                a_job_that_is_not_at_work_does_not_fail
                jobs_are_listed_by_state_the_oldest_first_up_to_a_limit
                an_ended_job_is_neither_found_nor_revived;
            fairness:
                the_tenant_with_the_fewest_jobs_at_work_is_served_first
                a_long_queue_of_one_tenant_does_not_starve_another
                a_tenant_has_so_many_jobs_at_work_and_no_more
                so_many_jobs_of_all_tenants_are_at_work_and_no_more
                what_a_person_waits_for_goes_before_older_runs_of_a_tenant_but_not_of_its_request
                claims_at_the_same_time_keep_to_the_limit_of_a_tenant;
            schedules:
                a_schedule_is_due_at_first_and_then_when_its_turn_says
                of_many_who_ask_at_once_one_gets_the_turn
                a_turn_whose_lease_ended_is_taken_over
                a_renewed_turn_is_held_and_a_lost_one_is_not_renewed
                each_schedule_has_its_own_turns;
            links:
                a_link_is_found_by_its_tenant_alone
                links_are_listed_the_oldest_first
                a_tenant_links_a_repository_once
                another_tenant_or_provider_may_link_the_same_repository
                a_link_id_is_taken_once
                a_link_is_replaced
                a_link_cannot_be_renamed_to_one_that_exists
                a_link_of_another_tenant_is_neither_replaced_nor_removed
                a_removed_link_is_gone_and_can_be_made_again
                a_request_outlives_its_link;
            api_keys:
                an_active_key_is_found_by_its_hash
                a_key_keeps_what_it_is_for_and_when_it_ends
                a_revoked_key_is_not_found_by_its_hash_and_still_listed
                another_tenant_neither_lists_nor_revokes_a_key
                keys_are_listed_the_oldest_first
                all_keys_of_all_tenants_are_counted
                a_key_id_and_a_hash_are_taken_once
                the_last_use_is_noted_to_the_minute
                the_use_of_an_unknown_key_is_passed_over;
        );
    };
    (@ $open:expr; $($group:ident: $($rule:ident)*;)*) => { $(
        mod $group {
            #[allow(unused_imports, reason = "the expression may name what the calling module imports")]
            use super::*;
            $(
                #[tokio::test]
                async fn $rule() {
                    let (_guard, store) = $open.await;
                    $crate::testing::store_conformance::$group::$rule(&store).await;
                }
            )*
        }
    )* };
}

/// The commit that replaces a request at a version.
fn replaced(request: &Request, version: u64) -> Changes {
    let change = RequestChange { request: request.clone(), expected: Expected::Version(version) };
    Changes { request: Some(change), ..Changes::default() }
}

/// Commits what must go well.
#[track_caller]
fn commit(store: &impl Store, changes: Changes) -> impl Future<Output = u64> + '_ {
    let caller = std::panic::Location::caller();
    async move { store.commit(changes).await.unwrap_or_else(|error| panic!("{caller}: {error:?}")) }
}

/// Adds a request and returns it as the store has it.
async fn submit(store: &impl Store) -> Request {
    let request = super::samples::request();
    commit(store, super::samples::submitted(&request)).await;
    Request { version: 1, ..request }
}

#[track_caller]
fn assert_conflict<T: fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict { .. })), "expected a conflict: {result:?}");
}

#[track_caller]
fn assert_taken<T: fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::AlreadyExists { .. })), "expected a taken id or name: {result:?}");
}
