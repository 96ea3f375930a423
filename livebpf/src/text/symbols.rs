//! Telling others where code lies: profilers and debuggers, through a [`SymbolSink`]; and the report of [`super::trap`].
//!
//! [`super::Image::announce`] names an image's functions after its publication; dropping the image takes the names back.
//!
//! *Guarantees.* A sink has a thread of its own and is told in the order in which things happened: a chunk of memory is
//! given back after its old names were taken back, and before new ones are told. A sink that fails is told on; one that
//! panics, or is further behind than [`BACKLOG`] events, is given up, with a line in the log.
//!
//! *Never.* No sink is called by a thread that loads, updates, runs or reclaims, and none while a lock of the runtime is
//! held: however slow or broken it is, no patch waits for it or asks it anything.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use super::TextError;
use crate::primitive::caught;

/// One function's machine code at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeSymbol {
    /// Number of the program that it belongs to.
    pub program: u32,
    /// The function's name.
    pub name: String,
    /// Address of its first byte.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Is told where code lies. Called on a thread of its own; it may take its time.
pub trait SymbolSink: Send {
    /// These functions of one program were published: from now on they may be running.
    ///
    /// # Errors
    /// Go to the log; nothing else follows from them.
    fn loaded(&mut self, symbols: &[CodeSymbol]) -> io::Result<()>;

    /// These functions, told before, are gone: nobody runs them any more.
    ///
    /// # Errors
    /// As for [`loaded`](Self::loaded).
    fn unloaded(&mut self, symbols: &[CodeSymbol]) -> io::Result<()>;
}

/// Events that a sink may be behind before it is given up.
const BACKLOG: usize = 1 << 16;

enum Event {
    Loaded(Arc<[CodeSymbol]>),
    Unloaded(Arc<[CodeSymbol]>),
    /// Whoever waits for what was sent before.
    Flush(mpsc::Sender<()>),
}

/// The sinks of one region.
#[derive(Debug, Default)]
pub(super) struct Sinks(Vec<Queue>);

#[derive(Debug)]
struct Queue {
    send: mpsc::Sender<Event>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    given_up: AtomicBool,
}

impl Sinks {
    /// Starts a thread for each sink. It ends when everything was told that happened before these `Sinks` were dropped.
    pub(super) fn start(sinks: Vec<Box<dyn SymbolSink>>) -> Result<Sinks, TextError> {
        let start = |sink| {
            let (send, receive) = mpsc::channel();
            let state = Arc::new(State::default());
            let own = state.clone();
            let thread = thread::Builder::new().name("livebpf-symbols".to_owned());
            let started = thread.spawn(move || tell(sink, &receive, &own));
            started.map(|_| Queue { send, state }).map_err(|source| TextError::Os {
                step: "starting a thread for symbols",
                source,
                hint: "",
            })
        };
        sinks.into_iter().map(start).collect::<Result<_, _>>().map(Sinks)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn loaded(&self, symbols: &Arc<[CodeSymbol]>) {
        self.send(|| Event::Loaded(symbols.clone()));
    }

    pub(super) fn unloaded(&self, symbols: &Arc<[CodeSymbol]>) {
        self.send(|| Event::Unloaded(symbols.clone()));
    }

    fn send(&self, event: impl Fn() -> Event) {
        for Queue { send, state } in self.0.iter().filter(|q| !q.state.given_up.load(Ordering::Relaxed)) {
            if state.waiting.fetch_add(1, Ordering::Relaxed) >= BACKLOG {
                state.give_up("it is too far behind");
            } else {
                // Refused only where the thread has ended, which it does after giving up.
                let _ = send.send(event());
            }
        }
    }

    /// Returns when every sink was told what happened before this call, or was given up.
    pub(super) fn flush(&self) {
        let (done, wait) = mpsc::channel();
        self.send(|| Event::Flush(done.clone()));
        drop(done);
        while wait.recv().is_ok() {}
    }
}

impl State {
    fn give_up(&self, why: &str) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            log::error!("a symbol sink is told nothing more: {why}");
        }
    }
}

/// A sink's thread.
fn tell(mut sink: Box<dyn SymbolSink>, events: &mpsc::Receiver<Event>, state: &State) {
    let mut failed = false;
    for event in events {
        if state.given_up.load(Ordering::Relaxed) {
            break;
        }
        state.waiting.fetch_sub(1, Ordering::Relaxed);
        let call = || match &event {
            Event::Loaded(symbols) => sink.loaded(symbols),
            Event::Unloaded(symbols) => sink.unloaded(symbols),
            Event::Flush(_) => Ok(()),
        };
        match caught(call) {
            Some(Ok(())) => {}
            Some(Err(error)) if !failed => {
                failed = true;
                log::warn!("a symbol sink failed, it goes on: {error}");
            }
            Some(Err(_)) => {}
            None => {
                state.give_up("it panicked");
                break;
            }
        }
        if let Event::Flush(done) = event {
            let _ = done.send(());
        }
    }
    // A sink may panic here, too: then that ends this thread, and nothing else.
    drop(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks until it is released; counts.
    struct Slow(mpsc::Receiver<()>, Arc<AtomicUsize>);

    impl SymbolSink for Slow {
        fn loaded(&mut self, _: &[CodeSymbol]) -> io::Result<()> {
            let _ = self.0.recv();
            self.1.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
        fn unloaded(&mut self, _: &[CodeSymbol]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_is_far_behind_is_given_up_and_a_flush_does_not_wait_for_it() {
        let (release, wait) = mpsc::channel();
        let told = Arc::new(AtomicUsize::new(0));
        let sinks = Sinks::start(vec![Box::new(Slow(wait, told.clone()))]).unwrap();
        let symbols: Arc<[CodeSymbol]> = Arc::new([]);
        (0..2 * BACKLOG).for_each(|_| sinks.loaded(&symbols));
        drop(release);
        sinks.flush();
        assert!(told.load(Ordering::SeqCst) <= 1, "one was being told when the others were given up");
    }
}
