//! What a run asks its caller to do: where the packet is to go, which copies of it, with what result.
//!
//! Helpers only write it down. The caller reads it after the run: [`Worker::effects`](super::Worker::effects).

/// What a run has asked for, beside what it returned. Empty when a run begins that is not inside another one.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Effects {
    /// Where the last of the redirecting helpers wants the packet to go; to be followed when the program returns the verdict
    /// for it (`XDP_REDIRECT`, `TC_ACT_REDIRECT`).
    pub redirect: Option<Redirect>,
    /// Copies of the packet that `bpf_clone_redirect` has sent, in order.
    pub clones: Vec<Cloned>,
    /// What `bpf_set_retval` has set; 0 where it was not called.
    pub retval: i32,
    /// The tunnel that `bpf_skb_set_tunnel_key` has chosen: `struct bpf_tunnel_key` and the flags.
    pub tunnel: Option<(Vec<u8>, u64)>,
}

/// Where a packet is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// The target.
    pub to: Target,
    /// The flags that the program gave.
    pub flags: u64,
}

/// The target of a redirection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// `bpf_redirect`: the interface numbered so.
    Interface(u32),
    /// `bpf_redirect_peer`: the other end of that interface.
    Peer(u32),
    /// `bpf_redirect_neigh`: out of that interface, with the link-layer address of the next hop.
    Neighbour {
        /// The interface.
        interface: u32,
        /// `struct bpf_redir_neigh`; `None`: whoever the packet is for.
        next_hop: Option<[u8; 20]>,
    },
    /// `bpf_redirect_map`: an entry of a map.
    Map {
        /// The map's number ([`MapHandle::id`](crate::runtime::MapHandle::id)).
        map: u32,
        /// The entry's key.
        key: u32,
        /// The first four bytes of what the entry held at the time (an interface, a CPU's queue size, a socket); `None` for a
        /// broadcast to all entries.
        value: Option<u32>,
    },
}

/// A copy of the packet that is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cloned {
    /// The interface.
    pub interface: u32,
    /// `BPF_F_INGRESS`: as if it had come in there.
    pub ingress: bool,
    /// Its bytes.
    pub packet: Vec<u8>,
}

/// Most copies that a run can ask for.
pub(super) const CLONES_MAX: usize = 64;
