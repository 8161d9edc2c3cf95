//! In which form an image is received.

use std::path::{Path, PathBuf};

use rocks_ship::bootable::{BootReceiver, Root};
use rocks_ship::shipment::{Receiver, ShipmentError, Stream, Target, Tell};
use rocks_ship::tree::{self, Findings, Origin, TreeReceiver};
use serde_json::Value;

use crate::ground::{self, FileSystem};
use crate::process::System;

/// Most findings that are told one by one.
const TOLD: usize = 20;

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// The disk as it is, with partitions and bootloader, onto a volume or into a file
    Block,
    /// Its root's files, into a folder or onto a volume that gets a new file system
    Tree,
    /// Its root's files and what it boots by, onto a disk of any size that is large enough
    Bootable,
}

/// Options of the tree form.
#[derive(Debug, clap::Args)]
pub(super) struct FormOptions {
    /// In which form it comes
    #[arg(long, value_enum, default_value_t = Form::Block, conflicts_with = "job")]
    pub(super) form: Form,
    /// With `--form tree`: the file system that a volume gets, if it does not have it already
    #[arg(long, value_enum, default_value_t = FileSystem::Ext4)]
    filesystem: FileSystem,
    /// With `--form tree` or `bootable`: let pass what only root may do (owners, devices, some attributes), and count it
    #[arg(long)]
    tolerant: bool,
}

/// What was received.
pub(super) struct Taken {
    /// For programs.
    pub(super) shipped: Value,
    /// For people.
    pub(super) text: String,
}

impl Taken {
    /// Of files, for programs as a part of `whole`.
    fn of(whole: &impl serde::Serialize, tree: &tree::Shipped, findings: &Findings) -> Self {
        let mut text = format!(
            "received {} files and folders of {} bytes, {} of {} chunks, verified: {}\n",
            tree.entries, tree.bytes, tree.sent, tree.chunks, tree.digest
        );
        text.push_str(&told(findings));
        Self { shipped: serde_json::to_value(whole).unwrap_or_default(), text }
    }
}

/// Takes an image in one form or the other.
pub(super) enum Taker {
    /// As a disk.
    Block(Receiver),
    /// As files.
    Tree(TreeReceiver<'static>),
    /// As files on a disk that boots.
    Bootable(BootReceiver<'static>),
}

impl Taker {
    pub(super) fn new(
        options: &FormOptions,
        target: &Path,
        bases: &[PathBuf],
        is_blank: bool,
    ) -> Result<Self, ShipmentError> {
        if options.form == Form::Block {
            let receiver = Receiver::new(Target::open(target)?, bases)?;
            return Ok(Self::Block(if is_blank { receiver.onto_blank() } else { receiver }));
        }
        if !bases.is_empty() {
            return Err(ShipmentError::Target(
                "--base is for the block form; files are looked for in the target".into(),
            ));
        }
        if options.form == Form::Bootable {
            let tolerant = options.tolerant;
            let ground = move |root: &Root, origin: &Origin| {
                let target = ground::root(root, origin, &System)?;
                Ok(if tolerant { target.tolerant() } else { target })
            };
            return Ok(Self::Bootable(BootReceiver::new(target, Box::new(ground))?));
        }
        let (target, filesystem, tolerant) = (target.to_owned(), options.filesystem, options.tolerant);
        Ok(Self::Tree(TreeReceiver::onto(Box::new(move |origin| {
            let target = ground::ground(&target, filesystem, origin, &System)?;
            Ok(if tolerant { target.tolerant() } else { target })
        }))))
    }

    pub(super) fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Taken, ShipmentError> {
        match self {
            Self::Block(receiver) => {
                let shipped = receiver.run(stream, tell)?;
                let text = format!(
                    "received {} bytes, {} of {} blocks, verified: {}\n",
                    shipped.bytes, shipped.sent, shipped.blocks, shipped.digest
                );
                Ok(Taken { shipped: serde_json::to_value(shipped).unwrap_or_default(), text })
            }
            Self::Tree(receiver) => {
                let (shipped, findings) = receiver.run(stream, tell)?;
                Ok(Taken::of(&shipped, &shipped, &findings))
            }
            Self::Bootable(receiver) => {
                let (shipped, findings) = receiver.run(stream, tell)?;
                Ok(Taken::of(&shipped, &shipped.tree, &findings))
            }
        }
    }
}

fn told(findings: &Findings) -> String {
    let mut text: String = findings.iter().take(TOLD).map(|finding| format!("not as it was: {finding}\n")).collect();
    if findings.len() > TOLD {
        text.push_str(&format!("not as it was: {} more\n", findings.len() - TOLD));
    }
    text
}
