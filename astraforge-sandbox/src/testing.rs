//! What tests of drivers share. Public, but outside semantic versioning.

pub mod conformance;
pub mod fuzz;
mod played_internet;

pub use played_internet::PlayedInternet;

/// Parsers of what sandboxes send to their way out, for fuzz targets.
pub mod egress_readings {
    pub use crate::egress::readings::{address, socks_messages, target, tunnel_beginning};
}

/// Makes one test of every rule that a driver has to keep.
///
/// Takes a future of a [`DynSandboxDriver`](crate::driver::DynSandboxDriver), and needs `tokio` in the crate that calls
/// it. Each rule is a function in [`conformance`]. A rule about a limit that the driver says it cannot enforce is
/// skipped, aloud. So are all of them where the future yields `None`: the driver's backend is not there, which the future
/// has to say.
#[macro_export]
macro_rules! driver_conformance {
    ($connect:expr) => {
        $crate::driver_conformance! { @ $connect;
            the_way_out_leads_nowhere_when_it_is_off
            an_allowlist_lets_through_what_it_names
            a_narrowed_policy_cuts_what_it_forbids
            no_spelling_reaches_the_node
            the_way_out_ends_with_its_server
            a_package_is_installed_through_the_way_out
            exit_codes_are_reported
            death_by_signal_is_told_from_exit
            streams_are_separate_and_byte_exact
            stdin_arrives_whole_and_ends
            stdin_that_nobody_reads_holds_up_nothing
            the_environment_is_layered
            what_cannot_start_says_why
            a_timeout_ends_the_whole_tree
            orphans_end_with_their_command
            a_held_stdout_does_not_hold_the_command
            dropping_an_execution_ends_its_tree
            signals_reach_the_command
            the_supervisor_can_be_killed_without_freeing_anyone
            a_stopped_supervisor_does_not_hold_the_command
            a_flood_of_output_arrives_whole_whatever_the_readers_pace
            many_commands_run_at_once
            a_fork_bomb_is_ended
            files_are_written_whole_and_read_back
            what_is_no_readable_file_is_refused_without_waiting
            what_cannot_be_written_is_refused
            services_are_reached_from_inside
            a_dead_sandbox_fails_its_calls
            destroy_is_idempotent
            an_id_is_taken_once
            what_lives_is_listed_and_can_be_adopted
            a_dropped_creation_leaves_nothing
            a_command_without_memory_is_told_from_a_killed_one
            a_required_limit_on_disk_holds_or_is_refused
            what_a_sandbox_uses_is_told
            an_image_that_is_not_there_is_refused_by_name
            an_archive_brings_the_files_back
            an_archive_need_not_be_compressed
            a_broken_archive_changes_nothing
            what_is_not_there_is_not_packed
            an_archive_is_compared_with_the_files
            packing_holds_up_nothing
            what_is_where_is_told
            folders_are_made_moved_and_removed
            text_is_read_and_edited_exactly
            files_are_found_by_name_and_content
            file_verbs_stay_in_their_roots
            a_race_of_links_never_leads_out
            large_files_are_streamed_both_ways
            an_upload_that_breaks_off_changes_nothing
            what_is_moved_to_another_filesystem_arrives_whole
            changes_are_told_as_they_happen
            a_new_folder_is_watched_with_all_that_is_in_it
            a_watch_stays_where_it_is_allowed
            a_watch_that_falls_behind_says_so
            a_process_goes_on_without_a_watcher
            watchers_come_and_go_and_miss_nothing
            lost_output_is_counted
            a_process_is_ended_by_name
            kept_processes_are_bounded
            input_is_given_while_a_command_runs
            a_terminal_is_one
            one_ctrl_c_is_enough
        }
    };
    (@ $connect:expr; $($rule:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            let driver: Option<$crate::driver::DynSandboxDriver> = $connect.await.into();
            if let Some(driver) = driver {
                $crate::testing::conformance::$rule(driver).await;
            }
        }
    )* };
}
