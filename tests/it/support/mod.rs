//! What the tests share: source trees, views of what is on disk, backends that count and fail,
//! stores in few words, manifests that no backup would write, and children of the test process.

mod backend;
mod forge;
mod noise;
mod process;
pub mod replica;
mod snapshot;
mod stores;
mod tree;

pub use backend::{TestBackend, When};
pub use forge::{Forge, dir, entry_of, file, symlink};
pub use noise::{Random, noise, text};
pub use process::{Child, Mount, as_nobody, is_root, part_argument, part_name, watched};
pub use snapshot::{
    Compare, Snapshot, assert_same_snapshot, assert_same_tree, differences, part, snapshot,
};
pub use stores::*;
pub use tree::{Tree, below, fast_temp, temp};
