//! The link from a differencing disk to its parent: read, and rewritten so that a power cut leaves the old or the new one.

use crate::footer::FOOTER;
use crate::header::{HEADER, Header};
use crate::locator::{ABSOLUTE, Locator, RELATIVE, SLOTS, URL, encode_path};
use crate::sparse::Sparse;
use bulkhead_disk::{File, ParentLink, Result, SECTOR, read_vec, write_vec};

/// Reads what the header and its locators say, relative paths first.
pub(crate) async fn read_link(file: &dyn File, header: &Header) -> Result<ParentLink> {
    let mut found: Vec<(u8, String)> = Vec::new();
    for locator in header.locators() {
        let order = match locator.code {
            RELATIVE => 0,
            ABSOLUTE => 1,
            URL => 2,
            _ => continue,
        };
        locator.check(file.len())?;
        let text = read_vec(file, locator.offset, locator.length as usize).await?;
        found.extend(locator.decode(&text).map(|path| (order, path)));
    }
    found.push((3, header.parent_name()));
    found.sort_by_key(|(order, _)| *order);
    let mut paths: Vec<String> = Vec::new();
    for (_, path) in found {
        if !path.is_empty() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(ParentLink { id: header.parent_id(), second_id: None, timestamp: Some(header.parent_timestamp()), paths })
}

/// The last component of a path with either separator.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Sets the link in `header`; returns the texts to write, the first at `offset`, each with a space of whole sectors.
pub(crate) fn place_link(header: &mut Header, link: &ParentLink, offset: u64) -> Vec<(u64, Vec<u8>)> {
    let mut texts = Vec::new();
    let mut locators = Vec::new();
    let mut at = offset;
    for path in link.paths.iter().filter(|path| path.contains(['/', '\\'])).take(SLOTS) {
        let (code, mut text) = encode_path(path);
        let (length, space) = (text.len() as u32, (text.len() as u64).next_multiple_of(SECTOR));
        text.resize(space as usize, 0);
        locators.push(Locator { code, space: space as u32, length, offset: at });
        texts.push((at, text));
        at += space;
    }
    let name = link.paths.first().map_or("", |path| file_name(path));
    header.set_parent(link.id, link.timestamp.unwrap_or(0), name, &locators);
    texts
}

impl Sparse {
    pub(crate) async fn load_link(&self) -> Result<()> {
        let header = self.header.borrow().clone();
        let link = read_link(&*self.file, &header).await?;
        *self.link.borrow_mut() = Some(link);
        Ok(())
    }

    /// The header has two sectors, so it cannot be overwritten atomically. A whole new one is put at the end of the file; the
    /// footer copy, one sector, points to it while the old one is overwritten.
    pub(crate) async fn rewrite_link(&self, link: ParentLink) -> Result<()> {
        let _guard = self.structure.lock().await;
        self.secure_copy().await?;
        let spare = self.space.borrow().next.next_multiple_of(SECTOR);
        let mut header = self.header.borrow().clone();
        let texts = place_link(&mut header, &link, spare + HEADER);
        let end = texts.last().map_or(spare + HEADER, |(offset, text)| offset + text.len() as u64);
        write_vec(&*self.file, spare, &header.encode()).await?;
        for (offset, text) in &texts {
            write_vec(&*self.file, *offset, text).await?;
        }
        self.move_footer(end).await?;

        let footer = self.footer.borrow().clone();
        let mut pointing = footer.clone();
        pointing.set_data_offset(spare);
        write_vec(&*self.file, 0, &pointing.encode()).await?;
        self.file.flush().await?;
        write_vec(&*self.file, self.header_offset.get(), &header.encode()).await?;
        self.file.flush().await?;
        write_vec(&*self.file, 0, &footer.encode()).await?;
        self.file.flush().await?;
        *self.header.borrow_mut() = header;
        self.load_link().await
    }

    /// Puts the end footer to `end`, behind new structures, and flushes all of it. Held: the structure lock; the copy is good.
    pub(crate) async fn move_footer(&self, end: u64) -> Result<()> {
        let footer = self.footer.borrow().encode();
        write_vec(&*self.file, end, &footer).await?;
        if self.file.len() > end + FOOTER {
            self.file.set_len(end + FOOTER).await?;
        }
        self.file.flush().await?;
        let mut space = self.space.borrow_mut();
        (space.next, space.limit, space.clean) = (end, end, false);
        Ok(())
    }
}
