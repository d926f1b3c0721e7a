//! A filter that finds the answer to a number by halving, where a list of comparisons would be gone through.
//!
//! The kernel goes through a filter once for each of its system calls when the filter is loaded, and again at every call
//! that is not simply allowed: with some hundred calls in a list, loading it is a tenth of a sandbox's start.

use seccompiler::{BpfProgram, sock_filter};

/// Where a filter finds the number of the call.
const NUMBER: u32 = 0;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_UNLESS_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What a call's number says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel is told this, whatever the arguments are.
    Return(u32),
    /// The arguments decide.
    Arguments,
}

/// Puts a tree before `arguments`, a filter that looks at the arguments of some calls. `answers` has one for each number;
/// the last is that of all that follow.
pub(super) fn before(arguments: BpfProgram, answers: &[Answer]) -> BpfProgram {
    // Calls of another architecture have other numbers: that is looked at first, as `arguments` does it.
    let mut program = arguments[..3].to_vec();
    program.push(statement(LOAD, NUMBER));
    program.extend(halves(&runs(answers)));
    let n_instructions = program.len();
    for (at, it) in program.iter_mut().enumerate().skip(3) {
        // Those that ask for the arguments do not know yet how far away they are.
        if it.code == JUMP && it.k == u32::MAX {
            it.k = u32::try_from(n_instructions - at - 1).unwrap_or(u32::MAX);
        }
    }
    program.extend(arguments);
    program
}

/// Numbers beside each other with one answer, by the first of them.
fn runs(answers: &[Answer]) -> Vec<(u32, Answer)> {
    let mut runs: Vec<(u32, Answer)> = Vec::new();
    for (number, answer) in (0..).zip(answers.iter().copied()) {
        if runs.last().is_none_or(|(_, last)| *last != answer) {
            runs.push((number, answer));
        }
    }
    runs
}

/// Asks in which half of the runs a number is, and there again.
fn halves(runs: &[(u32, Answer)]) -> BpfProgram {
    match runs {
        [] => Vec::new(),
        [(_, Answer::Return(value))] => vec![statement(RETURN, *value)],
        [(_, Answer::Arguments)] => vec![statement(JUMP, u32::MAX)],
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let first = upper.first().map_or(0, |(first, _)| *first);
            let lower = halves(lower);
            // What is asked can jump over 255 instructions, a jump over any number.
            let mut program = vec![
                sock_filter { code: JUMP_UNLESS_BELOW, jt: 0, jf: 1, k: first },
                statement(JUMP, u32::try_from(lower.len()).unwrap_or(u32::MAX)),
            ];
            program.extend(lower);
            program.extend(halves(upper));
            program
        }
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
