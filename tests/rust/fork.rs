//! Locks and threads across a fork.
#![cfg(unix)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use cnnrs::parallel::{Attendance, region};
use cnnrs::storage::Stored;
use cnnrs::sync::{Access, Brief, Waiting};
use cnnrs::tensor::DType;

/// Forks of one process at a time: a child's `work` says whether all is well, and has ten seconds.
fn forked(work: impl FnOnce() -> bool) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: the child runs code that only uses locks a fork cannot leave held, and ends without returning.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: a timer that kills this process, and its end.
        unsafe {
            libc::alarm(10);
            let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            libc::_exit(well.map_or(2, |well| i32::from(!well)));
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "the child was killed by signal {}", libc::WTERMSIG(status));
    assert_eq!(libc::WEXITSTATUS(status), 0);
}

/// Runs `work` while two threads repeat `other`; they end also when it fails.
fn meanwhile(other: impl Fn() + Sync, work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    other();
                }
            });
        }
        work();
    });
}

fn never() -> bool {
    false
}

/// Runs `work` while another thread holds the tensor's lock.
fn while_held(stored: &Stored, access: Access, work: impl FnOnce()) {
    let (taken, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let held = stored.lock(access, Waiting::here(&never));
            taken.wait();
            done.wait();
            drop(held);
        });
        taken.wait();
        work();
        done.wait();
    });
}

#[test]
fn a_child_finds_a_tensor_free_that_its_parent_was_writing() {
    let stored = Stored::zeros(vec![4], DType::F32).expect("16 bytes");
    let pack = |stored: &Stored| {
        let copy = stored.packed("as it is", 16, Waiting::here(&never), |_| Ok(())).expect("16 bytes");
        copy.ptr() as usize
    };
    let packed = pack(&stored);
    while_held(&stored, Access::Write, || {
        forked(|| {
            let held = stored.lock(Access::Read, Waiting::here(&never)).expect("free");
            let again = stored.lock(Access::Read, Waiting::here(&never)).expect("shared");
            // What was cut counts as a write: packed copies are made anew, once.
            let well = held.cut && !again.cut && stored.version() == 1 && pack(&stored) != packed;
            drop((held, again));
            well && stored.lock(Access::Write, Waiting::here(&never)).is_ok_and(|held| !held.cut)
        });
    });
    assert_eq!((stored.version(), pack(&stored)), (0, packed));
    assert!(stored.lock(Access::Write, Waiting::here(&never)).is_ok_and(|held| !held.cut));
}

#[test]
fn a_child_finds_a_tensor_free_that_its_parent_was_reading() {
    let stored = Stored::zeros(vec![4], DType::F32).expect("16 bytes");
    while_held(&stored, Access::Read, || {
        forked(|| stored.lock(Access::Write, Waiting::here(&never)).is_ok_and(|held| !held.cut));
    });
}

#[test]
fn a_lock_taken_before_a_fork_is_not_given_back_in_the_child() {
    let stored = Stored::zeros(vec![4], DType::F32).expect("16 bytes");
    let mut held = stored.lock(Access::Write, Waiting::here(&never)).ok();
    forked(|| {
        let writing = stored.lock(Access::Write, Waiting::here(&never));
        held.take();
        // The parent's guard is gone; the child's own still holds.
        let refused = stored.lock(Access::Read, Waiting::here(&|| true)).is_err();
        writing.is_ok() && refused
    });
}

#[test]
fn a_brief_lock_is_free_and_whole_in_every_child() {
    let map: Brief<(u64, HashMap<u64, u64>)> = Brief::default();
    let whole = || map.with(|(count, map)| *count == map.len() as u64 && (0..*count).all(|key| map[&key] == key));
    let insert = || {
        map.with(|(count, map)| {
            if *count == 1000 {
                (*count, *map) = (0, HashMap::new());
            }
            map.insert(*count, *count);
            *count += 1;
        });
    };
    meanwhile(insert, || (0..200).for_each(|_| forked(whole)));
    assert!(whole());
}

#[test]
fn a_child_builds_its_own_team_while_its_parents_works() {
    let members = || {
        let count = AtomicUsize::new(0);
        region(3, Attendance::All, &|member| {
            count.fetch_add(1, Ordering::Relaxed);
            member.wait();
        });
        count.into_inner()
    };
    members();
    let work = || region(3, Attendance::All, &|member| member.wait());
    meanwhile(work, || (0..20).for_each(|_| forked(|| (0..3).all(|_| members() == 3))));
}

#[test]
fn a_child_forked_inside_a_region_leaves_it() {
    let child = AtomicUsize::new(usize::MAX);
    region(3, Attendance::All, &|member| {
        if member.rank == 0 {
            // SAFETY: the child leaves the region, says so and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: a timer that kills this process.
                unsafe { libc::alarm(10) };
            }
            child.store(pid as usize, Ordering::SeqCst);
        }
        member.wait();
    });
    let child = child.into_inner() as i32;
    if child == 0 {
        // SAFETY: the end of the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
