//! Reading values one after the other: "Payload encoding".

use super::{Bytes, Result, demand};

/// A place in bytes.
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns how many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        demand(count <= self.rest.len(), format!("{count} bytes wanted, {} left", self.left()))?;
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A count before a sequence. Every item takes a byte at least, so a count above what is left
    /// is wrong, and nothing is allocated for it.
    fn count(&mut self) -> Result<usize> {
        let count = self.u64()?;
        demand(count <= self.left() as u64, format!("{count} items, {} bytes left", self.left()))?;
        Ok(count as usize)
    }

    pub fn bytes(&mut self) -> Result<Bytes> {
        let count = self.count()?;
        Ok(Bytes(self.take(count)?.to_vec()))
    }

    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.0).map_err(|error| error.to_string())
    }

    pub fn seq<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..self.count()?).map(|_| item(self)).collect()
    }

    pub fn opt<T>(&mut self, item: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => item(self).map(Some),
            other => Err(format!("{other} where 0 or 1 says whether a value follows")),
        }
    }

    /// Demands a field that is always zero.
    pub fn zero(&mut self, count: usize) -> Result<()> {
        let bytes = self.take(count)?;
        demand(bytes.iter().all(|byte| *byte == 0), format!("{bytes:?} where zeros belong"))
    }

    /// Passes over spare bytes, whatever they are.
    pub fn spare(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }

    /// Demands that everything has been read.
    pub fn end(&self) -> Result<()> {
        demand(self.rest.is_empty(), format!("{} bytes left over", self.left()))
    }
}
