//! Every bound of the program: sizes of the format, of queues and of buffers.
//!
//! Bounds of the format are normative and stand in `store-format.md` ("Limits"); the others may
//! change from release to release. Memory of a backup of any size stays under 300 MB resident:
//! the budget is the sum noted at [`PACK_BYTES_TARGET`] and [`UNIT_BYTES`].

/// Bytes in 1 KiB.
pub const KIB: usize = 1 << 10;
/// Bytes in 1 MiB.
pub const MIB: usize = 1 << 20;

// ---- the format -------------------------------------------------------------------------------

/// Largest plain chunk, in bytes. A decoder refuses more before it allocates.
pub const CHUNK_BYTES_MAX: usize = MIB;
/// Largest stored form of a chunk: raw is never larger than the plain bytes, and an encoding that
/// does not save is not used.
pub const STORED_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Largest pack object, in bytes.
pub const PACK_BYTES_MAX: usize = 64 * MIB;
/// Most chunks in one pack.
pub const PACK_CHUNKS_MAX: usize = 1 << 18;
/// Largest payload of a framed record (store header, manifest, commit record), in bytes.
pub const RECORD_BYTES_MAX: usize = 16 * MIB;
/// Largest plain list page, in bytes.
pub const PAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Most levels of list pages above the items: a page has at least two children, so this covers
/// any 64-bit count.
pub const LIST_LEVELS_MAX: u8 = 16;
/// Most chunk references kept inside an entry instead of in list pages of their own.
pub const INLINE_CHUNKS_MAX: usize = 8;
/// Longest path of an entry inside its member, in bytes (Linux `PATH_MAX` is 4096 for one call;
/// a tree may be deeper than one call can name).
pub const PATH_BYTES_MAX: usize = 64 * KIB;
/// Longest name of one path component, in bytes (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest name of a deployment or member, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 1024;
/// Largest value of one extended attribute, in bytes (Linux `XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * KIB;
/// Largest path, symlink target and attributes of one entry together, in bytes: what leaves room
/// for any entry in a list page.
pub const ENTRY_BYTES_MAX: usize = 512 * KIB;
/// Most extensions of one manifest.
pub const EXTENSIONS_MAX: usize = 256;
/// Most members in one generation.
pub const MEMBERS_MAX: usize = 1 << 16;
/// Most generations that one commit record forgets or brings back.
pub const RECORD_NAMES_MAX: usize = 1 << 16;
/// Highest number of a generation: no store ever gets there, but a forged record could leave none to
/// be given.
pub const GENERATION_MAX: u64 = (1 << 63) - 1;
/// Most objects in one list of objects to be removed.
pub const REMOVAL_OBJECTS_MAX: usize = 1 << 18;
/// Most entries in one index segment (offsets into it stay within 32 bits of entries).
pub const SEGMENT_ENTRIES_MAX: usize = 1 << 30;
/// Largest content of one file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 60;

// ---- ingest -----------------------------------------------------------------------------------

/// Most bytes of all extensions of a manifest that is written: room is left for its members.
pub const EXTENSION_BYTES_MAX: usize = 4 * MIB;
/// A pack is closed when it holds this many bytes. Three buffers of this size are alive at most:
/// one being filled, one waiting, one being written (96 MiB).
pub const PACK_BYTES_TARGET: usize = 24 * MIB;
/// Bytes of source that one unit of work holds: one range of a large file, or several small
/// files. Plain and encoded bytes of a unit are both bounded by it.
pub const UNIT_BYTES: usize = 4 * MIB;
/// Most files in one unit of small files.
pub const UNIT_FILES_MAX: usize = 256;
/// Most new chunks that wait in memory before an index segment is written for them.
pub const PENDING_CHUNKS_MAX: usize = 1 << 18;

// ---- index ------------------------------------------------------------------------------------

/// Where more segments than this overlap, some are merged when a writer finishes.
pub const SEGMENTS_MAX: usize = 12;
/// Most entries of a merged segment: about 85 MB while it is made.
pub const PART_ENTRIES_MAX: u64 = 1 << 19;
/// A merge stops when it has written so many entries (about 500 MB); the next goes on.
pub const MERGED_ENTRIES_MAX: u64 = 1 << 23;

// ---- prune ------------------------------------------------------------------------------------

/// A pack of which more than this part is live is not written anew: what would be won is not worth
/// the copy.
pub const REWRITE_LIVE_SHARE_MAX: f64 = 0.7;

// ---- read -------------------------------------------------------------------------------------

/// Two ranges of one pack that lie closer than this are read as one.
pub const COALESCE_GAP_BYTES: u64 = 64 * KIB as u64;
/// Largest range read from a pack at once.
pub const READ_BYTES_MAX: usize = 8 * MIB;
/// Plain list pages kept decoded while lists are read.
pub const PAGE_CACHE_PAGES: usize = 64;

// ---- change detection -------------------------------------------------------------------------

/// A file whose times are not older than the start of the previous backup by this much is read
/// again: within one tick of the file system's clock a change leaves no trace in the times. Linux
/// stamps with the timer's tick, 10 ms at most; this is ten of them.
pub const RACY_NANOS: i64 = 100_000_000;
/// The same for times without fractions of a second: two seconds is the coarsest tick in use
/// (FAT).
pub const RACY_COARSE_NANOS: i64 = 2_000_000_000;

// ---- interchange ------------------------------------------------------------------------------

/// Largest JSON file of another program's backup directory that is read, in bytes: the journal of
/// a run over some 6,000 members.
pub const INTERCHANGE_JSON_BYTES_MAX: usize = 32 * MIB;
/// Most members of all units of another program's backup together, each counted in every unit.
pub const UNIT_MEMBERS_MAX: usize = 1 << 17;
