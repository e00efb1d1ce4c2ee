//! The files of a disk: their images, and which names the disk knows them by.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Random;
use crate::image::Image;

/// Which [`Image`] a name or an open file means.
pub(crate) type ImageId = usize;

#[derive(Debug, Default)]
pub(crate) struct Files {
    images: Vec<Image>,
    names: HashMap<PathBuf, Name>,
}

/// What lies under a name, for the programs and on the disk. The two differ until the directory is synced.
#[derive(Debug, Clone, Copy, Default)]
struct Name {
    live: Option<ImageId>,
    durable: Option<ImageId>,
}

impl Files {
    /// The image of the file at `path`. If it was not seen before, what the real file holds is synced.
    ///
    /// Only to be called before the file is opened: closing any handle of a file drops the locks that
    /// SQLite has on it.
    pub(crate) fn open(&mut self, path: &Path) -> io::Result<ImageId> {
        if let Some(Name { live: Some(image), .. }) = self.names.get(path) {
            return Ok(*image);
        }
        let found = match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let id = self.images.len();
        let name = self.names.entry(path.to_owned()).or_default();
        name.live = Some(id);
        if found.is_some() {
            name.durable = Some(id);
        }
        self.images.push(found.map_or_else(Image::default, Image::durable));
        Ok(id)
    }

    pub(crate) fn image(&mut self, id: ImageId) -> &mut Image {
        &mut self.images[id]
    }

    /// The file at `path` was synced by other means. Files that SQLite never opened are none of ours.
    pub(crate) fn synced(&mut self, path: &Path) -> io::Result<()> {
        if let Some(Name { live: Some(image), .. }) = self.names.get(path) {
            self.images[*image].replace(fs::read(path)?);
        }
        Ok(())
    }

    /// The file at `path` was deleted.
    pub(crate) fn deleted(&mut self, path: &Path) {
        if let Some(name) = self.names.get_mut(path) {
            name.live = None;
        }
    }

    /// The directory of `path` was synced: the disk knows the names in it as the programs do.
    pub(crate) fn sync_directory(&mut self, path: &Path) {
        for (other, name) in &mut self.names {
            if other.parent() == path.parent() {
                name.durable = name.live;
            }
        }
    }

    /// Makes the real files what is found after a power loss, and forgets them.
    pub(crate) fn cut(&mut self, random: &mut Random) -> io::Result<()> {
        let mut names: Vec<_> = self.names.drain().collect();
        // The order of a hash map is not the seed's.
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (path, name) in names {
            if name.live.is_some() && !path.exists() {
                // Renamed or removed by the program itself.
                continue;
            }
            let kept = if random.once_in(2) { name.live } else { name.durable };
            match kept {
                Some(image) => fs::write(&path, self.images[image].after_cut(random))?,
                None => remove(&path)?,
            }
            let mut shm = path.into_os_string();
            shm.push("-shm");
            remove(Path::new(&shm))?;
        }
        self.images.clear();
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
