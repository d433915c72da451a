//! The command `strongroom`; see the module `cli` of the library.

fn main() -> std::process::ExitCode {
    strongroom::cli::main()
}
