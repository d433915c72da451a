//! A Wasm heap: regions of 64 KiB with objects, tables, strings or nothing in them.

use crate::rng::Rng;
use crate::text;

/// Bytes of a region, which is one Wasm page.
const REGION_BYTES: usize = 64 << 10;
/// Regions side by side that are hot together, as a collector's young space is.
const REGIONS_TOGETHER: usize = 8;
/// Bytes of a page of the machine.
const PAGE_BYTES: usize = 4 << 10;
/// Bytes of one object: a header, pointers, lengths and a hash.
const OBJECT_BYTES: usize = 64;
/// Share of the regions that a generation touches, and of the pages touched in those.
const HOT_REGION_SHARE: f64 = 0.40;
const HOT_PAGE_SHARE: f64 = 0.50;

/// The heap of one canister.
pub struct Heap {
    bytes: Vec<u8>,
}

impl Heap {
    /// Makes a heap of `bytes`, rounded up to whole regions.
    pub fn create(bytes: usize, rng: &mut Rng) -> Self {
        let mut heap = Self { bytes: Vec::new() };
        for _ in 0..bytes.div_ceil(REGION_BYTES).max(4) {
            heap.add_region(rng);
        }
        heap
    }

    /// Returns the image.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Changes objects in place and grows by a region in two hundred.
    pub fn step(&mut self, rng: &mut Rng) {
        for regions in self.bytes.chunks_mut(REGION_BYTES * REGIONS_TOGETHER) {
            if !rng.chance(HOT_REGION_SHARE) {
                continue;
            }
            for page in regions.chunks_exact_mut(PAGE_BYTES) {
                if rng.chance(HOT_PAGE_SHARE) {
                    let at = rng.index(PAGE_BYTES / OBJECT_BYTES) * OBJECT_BYTES;
                    write_object(&mut page[at..at + OBJECT_BYTES], rng);
                }
            }
        }
        for _ in 0..self.bytes.len() / REGION_BYTES / 200 {
            self.add_region(rng);
        }
    }

    fn add_region(&mut self, rng: &mut Rng) {
        let start = self.bytes.len();
        self.bytes.resize(start + REGION_BYTES, 0);
        let region = &mut self.bytes[start..];
        match rng.below(20) {
            0..8 => {
                for object in region.chunks_exact_mut(OBJECT_BYTES) {
                    write_object(object, rng);
                }
            }
            8..12 => rng.fill(&mut region[..REGION_BYTES * 7 / 8]),
            12..18 => {
                let mut strings = String::new();
                text::sentence(rng, REGION_BYTES, &mut strings);
                region.copy_from_slice(&strings.as_bytes()[..REGION_BYTES]);
            }
            _ => {} // freed: all zero
        }
    }
}

/// Writes an object: type and length, four pointers into the heap, a hash, and unused space.
fn write_object(object: &mut [u8], rng: &mut Rng) {
    object.fill(0);
    object[0] = rng.below(12) as u8;
    object[4] = rng.below(200) as u8;
    for pointer in object[8..24].chunks_exact_mut(4) {
        let address = 0x0010_0000 + (rng.below(1 << 18) as u32) * 16;
        pointer.copy_from_slice(&address.to_le_bytes());
    }
    rng.fill(&mut object[24..40]);
}
