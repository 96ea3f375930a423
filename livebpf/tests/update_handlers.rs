//! Updates from signal handlers (C12): whatever the interrupted thread is doing, a handler's update is either made or
//! refused, and never waits for the thread that it interrupts.
#![allow(unsafe_code)]

mod handmade;

use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use handmade::{Bench, Prog, call, program, run};
use livebpf::map::prog_array::{Change, Poke, ProgArray};
use livebpf::rcu::WaitError;
use livebpf::text::UpdateError;

/// What the handler of a thread updates.
struct Own {
    bench: Bench,
    array: ProgArray,
    made: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
}

thread_local! {
    static OWN: Cell<*const Own> = const { Cell::new(ptr::null()) };
}

/// Takes every lock that an update takes, unless it is refused. Allocates nothing: the thread may have been interrupted doing so.
extern "C" fn update(_: libc::c_int) {
    // SAFETY: the pointer is set only while the record is there.
    let Some(own) = (unsafe { OWN.get().as_ref() }) else { return };
    match own.bench.patcher.update() {
        Ok(mut guard) => {
            // What is in the slot takes its own place.
            let word = Some(own.array.word(0)).filter(|word| *word != 0);
            guard.poke(own.array.key(), &[Change { index: 0, old: word, new: word }]);
            drop(guard);
            own.bench.patcher.core_sync().core_sync();
            own.bench.domain.pending();
            own.made.fetch_add(1, Ordering::SeqCst);
        }
        Err(UpdateError::Reentrant) => {
            let waits = own.bench.domain.synchronize() == Err(WaitError::WouldDeadlock);
            own.wrong.fetch_add(u64::from(!waits), Ordering::SeqCst);
            own.refused.fetch_add(1, Ordering::SeqCst);
        }
        Err(UpdateError::Forked) => {
            own.wrong.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// One thing that a thread does again and again while it is interrupted.
type Deed<'a> = (&'a str, Box<dyn Fn(&Own) + Sync + 'a>);

/// Does it until handlers found the thread inside as well as outside of it.
fn interrupted(own: &Own, (what, deed): Deed<'_>) {
    let (thread, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let counts = || [&own.made, &own.refused].map(|count| count.load(Ordering::SeqCst));
    let before = counts();
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            OWN.set(ptr::from_ref(own));
            // SAFETY: names the calling thread.
            thread.store(unsafe { libc::pthread_self() }, Ordering::SeqCst);
            while !stop.load(Ordering::SeqCst) {
                deed(own);
            }
            OWN.set(ptr::null());
        });
        let _stop = StopOnDrop(&stop);
        let begin = Instant::now();
        let few = || counts().iter().zip(before).any(|(now, before)| *now < before + 20);
        while few() && !busy.is_finished() {
            assert!(begin.elapsed() < Duration::from_secs(100), "{what}: hardly ever interrupted: {:?}", counts());
            let busy = thread.load(Ordering::SeqCst);
            if busy != 0 {
                // SAFETY: a thread that was started and has not been joined.
                unsafe { libc::pthread_kill(busy, libc::SIGUSR1) };
            }
            thread::sleep(Duration::from_micros(20));
        }
        stop.store(true, Ordering::SeqCst);
        println!("{what}: {:?} updates of handlers made and refused", counts());
    });
}

/// Lets the busy thread end when this one panics, too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn c12_an_update_from_a_signal_handler_is_made_or_refused_and_never_hangs() {
    // SAFETY: ends this process if it hangs; and a handler of the right type, which keeps to what handlers may do.
    unsafe {
        libc::alarm(300);
        let handler: extern "C" fn(libc::c_int) = update;
        let mut action = std::mem::zeroed::<libc::sigaction>();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
    let own = Own {
        bench: Bench::new(),
        array: ProgArray::new(1).unwrap(),
        made: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
    };
    let target: Arc<Prog> = own.bench.load(&program(&[], 7), &[]).unwrap();
    let caller = own.bench.load(&program(&[call(0, 0)], 1), &[&own.array]).unwrap();
    let deeds: Vec<Deed<'_>> = vec![
        ("core syncs", Box::new(|own| own.bench.patcher.core_sync().core_sync())),
        (
            "updates",
            Box::new(|own| {
                own.bench.set(&own.array, 0, target.clone());
                own.bench.clear(&own.array, 0);
            }),
        ),
        ("loads", Box::new(|own| drop(own.bench.load(&program(&[call(0, 0)], 2), &[&own.array]).unwrap()))),
        ("deferred work", Box::new(|own| own.bench.domain.defer(|| {}))),
        ("looking at the queue", Box::new(|own| assert!(own.bench.domain.pending() < 2))),
        ("looking at slots", Box::new(|own| drop(own.array.entries()))),
        ("waiting", Box::new(|own| own.bench.domain.barrier().unwrap())),
    ];
    for deed in deeds {
        interrupted(&own, deed);
        own.bench.domain.barrier().unwrap();
        own.bench.audit(&[&own.array]).unwrap();
        let reader = own.bench.domain.reader();
        let _section = reader.enter();
        // SAFETY: a loaded image, in a section.
        assert_eq!(unsafe { run(caller.image.entry()) }, if own.array.word(0) == 0 { 1 } else { 7 });
    }
    assert_eq!(own.wrong.load(Ordering::SeqCst), 0);
    drop(caller);
    assert_eq!(own.bench.patcher.tracked(), 0);
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
}
