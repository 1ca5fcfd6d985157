//! Strips a BPF object: without its DWARF it is a tenth as long. BTF stays, the verifier needs it.

use anyhow::Result;
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// The object without debug sections and what refers to them.
pub(super) fn strip(linked: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(linked)?;
    for section in &mut builder.sections {
        let name = section.name.to_vec();
        let name = name.strip_prefix(b".rel").unwrap_or(&name);
        section.delete |= name.starts_with(b".debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the writer wants two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    builder.set_section_sizes();
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}
