//! Compiles the `.proto` files in pure Rust: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::Compiler;

const FILES: [&str; 3] = ["csi.proto", "agent.proto", "registration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut compiler = Compiler::new(["."])?;
    compiler.include_imports(true).open_files(FILES)?;
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    // Encoded by the compiler, which keeps the options that CSI defines; the decoded form below has no place for them.
    fs::write(folder.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    // With the comments, which become the generated code's documentation.
    let descriptors = compiler.include_source_info(true).file_descriptor_set();
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
