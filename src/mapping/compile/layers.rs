//! A file laid over those that it extends.

use std::collections::BTreeMap;

use super::Scope;
use super::signal::Defaults;
use crate::diagnostic::{Item, Table};

/// The outermost tables of a file and of what it extends, the file itself first.
pub(super) struct Layers<'a>(Vec<Table<'a>>);

/// A `[[table]]` of a file, laid over those of the same name in the files that it extends.
pub(super) struct Part<'a> {
    pub(super) table: Table<'a>,
    /// Which layers it comes from, the highest first.
    pub(super) layers: Vec<usize>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(roots: Vec<Table<'a>>) -> Self {
        Self(roots)
    }

    /// The outermost table of the file itself.
    pub(super) fn into_root(mut self) -> Table<'a> {
        self.0.swap_remove(0)
    }

    /// What stands at `key` in each layer that has it, the highest first.
    pub(super) fn take(&mut self, key: &'static str) -> Vec<(usize, Item<'a>)> {
        let roots = self.0.iter_mut().enumerate();
        roots
            .filter_map(|(layer, root)| Some((layer, root.take(key)?)))
            .collect()
    }

    /// Every `[[key]]`: those of the file itself, then those of its bases that it has none of the
    /// same `name` for.
    ///
    /// `hidden` are the keys that such a table takes from no base, by what stands in it.
    pub(super) fn parts(
        &mut self,
        key: &'static str,
        name: impl Fn(&Table<'a>) -> Option<String>,
        hidden: impl Fn(&Table<'a>) -> &'static [&'static str],
    ) -> Vec<Part<'a>> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        for (layer, root) in self.0.iter_mut().enumerate() {
            for table in root.tables(key) {
                let name = name(&table);
                let above = name.as_ref().and_then(|name| named.get(name));
                match above.and_then(|at| parts.get_mut(*at)) {
                    // Two of one name within a file are a mistake, which is found later.
                    Some(part) if part.layers.last() != Some(&layer) => {
                        part.table.lay_over(&table, hidden(&part.table));
                        part.layers.push(layer);
                    }
                    _ => {
                        if let Some(name) = name {
                            named.entry(name).or_insert(parts.len());
                        }
                        parts.push(Part {
                            table,
                            layers: vec![layer],
                        });
                    }
                }
            }
        }
        parts
    }
}

/// `[defaults]` of the layers, as far as they were asked for.
pub(super) struct AllDefaults<'a> {
    items: BTreeMap<usize, Item<'a>>,
    read: BTreeMap<Vec<usize>, Defaults<'a>>,
}

impl<'a> AllDefaults<'a> {
    pub(super) fn new(layers: &mut Layers<'a>) -> Self {
        Self {
            items: layers.take("defaults").into_iter().collect(),
            read: BTreeMap::new(),
        }
    }

    /// Those that hold for a signal of these layers: each file's for its own signals.
    pub(super) fn of(&mut self, layers: &[usize], scope: Scope<'a>) -> &Defaults<'a> {
        let items = &self.items;
        self.read.entry(layers.to_vec()).or_insert_with(|| {
            let mut tables = layers
                .iter()
                .filter_map(|layer| items.get(layer)?.table("defaults", "{ qos = 1 }"));
            let Some(mut table) = tables.next() else {
                return Defaults::default();
            };
            for base in tables {
                table.lay_over(&base, &[]);
            }
            Defaults::read(table, scope)
        })
    }
}
