//! Which mapping files extend which.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{At, Document, Item, Reader, Table, nearest};
use crate::name::short_hash;

/// Profiles that may be extended without a file of theirs. A file of the same id takes their place.
pub(super) const BUILT_IN: [(&str, &str); 3] = [
    ("oma-core", include_str!("../../../mappings/oma-core.toml")),
    (
        "oma-firmware",
        include_str!("../../../mappings/oma-firmware.toml"),
    ),
    (
        "raw-paths",
        include_str!("../../../mappings/raw-paths.toml"),
    ),
];

/// All files of one compilation, those of the operator first and the built-in ones last.
pub(super) struct Files<'a> {
    files: Vec<File<'a>>,
    /// The file that counts for each id.
    holders: BTreeMap<&'a str, usize>,
    extended: BTreeSet<&'a str>,
}

struct File<'a> {
    reader: &'a Reader,
    document: &'a Document<'a>,
    id: Option<&'a str>,
    extends: Option<Item<'a>>,
    /// In the order of the file.
    bases: Vec<&'a str>,
}

impl<'a> Files<'a> {
    pub(super) fn new(readers: &'a [Reader], documents: &'a [Document<'a>]) -> Self {
        let files: Vec<_> = readers.iter().zip(documents).map(File::look_at).collect();
        let mut holders = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            if let Some(id) = file.id {
                holders.entry(id).or_insert(index);
            }
        }
        let extended = files.iter().flat_map(|file| file.bases.iter().copied());
        Self {
            extended: extended.collect(),
            holders,
            files,
        }
    }

    /// Where the mistakes of a file go.
    pub(super) fn reader(&self, file: usize) -> &'a Reader {
        self.files[file].reader
    }

    /// The outermost table of a file.
    pub(super) fn root(&self, file: usize) -> Table<'a> {
        self.files[file].root()
    }

    /// Whether another file extends it.
    pub(super) fn is_extended(&self, file: usize) -> bool {
        self.files[file]
            .id
            .is_some_and(|id| self.extended.contains(id))
    }

    /// Where a file says what it extends, for mistakes that come of that.
    pub(super) fn extends_at(&self, file: usize) -> At {
        let file = &self.files[file];
        file.extends
            .map_or_else(|| file.reader.start(), |item| item.at())
    }

    /// The file and all that it is made of: a file stands behind those that extend it, and the
    /// later-named of two bases before the earlier one.
    pub(super) fn chain(&self, file: usize) -> Vec<usize> {
        let mut done = BTreeSet::new();
        let mut chain = Vec::new();
        self.visit(file, &mut done, &mut chain);
        chain.reverse();
        chain
    }

    fn visit(&self, file: usize, done: &mut BTreeSet<usize>, chain: &mut Vec<usize>) {
        if !done.insert(file) {
            return;
        }
        let bases = self.files[file].bases.iter();
        for &base in bases.filter_map(|base| self.holders.get(base)) {
            self.visit(base, done, chain);
        }
        chain.push(file);
    }

    /// Six hex digits that change with any file of a chain.
    pub(super) fn hash(&self, chain: &[usize]) -> String {
        let texts = chain.iter().map(|file| self.files[*file].reader.text());
        short_hash(texts.collect::<Vec<_>>().join("\0").as_bytes())
    }

    /// Says which bases there are not, and which lead back to the file.
    pub(super) fn check_bases(&self, file: usize, item: &Item<'_>) {
        for (item, name) in item.texts("oma-core").unwrap_or_default() {
            match self.holders.get(name) {
                None => {
                    let known = self.holders.keys().copied();
                    let hint = match nearest(name, known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => "built in are oma-core, oma-firmware and raw-paths; others must be among the files that are loaded, or checked, with this one".to_owned(),
                    };
                    item.error(
                        "unknown-profile",
                        format!("there is no profile `{name}`"),
                        hint,
                    );
                }
                Some(&base) => {
                    if let Some(way) = self.way(base, file) {
                        let names: Vec<_> = way.iter().map(|name| format!("`{name}`")).collect();
                        item.error(
                            "circular-extends",
                            match &names[..] {
                                [_] => format!("{} extends itself", names[0]),
                                _ => format!("this extends itself: {}", names.join(", which extends ")),
                            },
                            "take one of them out; to change a shipped profile for all who extend it, copy its file and change that",
                        );
                    }
                }
            }
        }
    }

    /// The ids from `from` over what each extends to `to`.
    fn way(&self, from: usize, to: usize) -> Option<Vec<&'a str>> {
        let mut reached_by: BTreeMap<usize, Option<usize>> = BTreeMap::from([(from, None)]);
        let mut waiting = vec![from];
        while let Some(at) = waiting.pop() {
            for &base in self.files[at]
                .bases
                .iter()
                .filter_map(|base| self.holders.get(base))
            {
                if let Entry::Vacant(entry) = reached_by.entry(base) {
                    entry.insert(Some(at));
                    waiting.push(base);
                }
            }
        }
        reached_by.get(&to)?;
        let mut way = Vec::new();
        let mut at = Some(to);
        while let Some(file) = at {
            way.extend(self.files[file].id);
            at = *reached_by.get(&file)?;
        }
        way.reverse();
        Some(way)
    }
}

impl<'a> File<'a> {
    /// Sees what a file is called and extends; what is wrong with that is said when it is read.
    fn look_at((reader, document): (&'a Reader, &'a Document<'a>)) -> Self {
        let mut file = Self {
            reader,
            document,
            id: None,
            extends: None,
            bases: Vec::new(),
        };
        let profile = file.root().take("profile").filter(Item::is_table);
        if let Some(mut table) = profile.and_then(|item| item.table("profile", "")) {
            file.id = table.peek_text("id");
            file.extends = table.take("extends");
            let list = file.extends.filter(Item::is_list);
            let items = list.and_then(|item| item.list("")).unwrap_or_default();
            file.bases = items.iter().filter_map(Item::as_text).collect();
        }
        file
    }

    fn root(&self) -> Table<'a> {
        self.reader.root(self.document)
    }
}
