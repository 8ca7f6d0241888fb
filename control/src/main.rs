//! The `ringway` program: reads the command line and does one of its few things.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::SystemTime;

use ringway::cli::{self, Invocation};
use ringway::{check, doctor, driver};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let invocation = match cli::parse(&args) {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("ringway: {error}");
            return ExitCode::from(1);
        }
    };
    match invocation {
        Invocation::Run(args) => ExitCode::from(driver::run(&args)),
        Invocation::Check { args, json } => {
            let report = check::check(&args, &driver::certificate_findings);
            print!("{}", if json { report.json() } else { report.text() });
            ExitCode::from(report.exit_code())
        }
        Invocation::Doctor(args) => ExitCode::from(doctor::run(&args)),
        Invocation::MakeTun(request) => done(driver::make_tun(&request)),
        Invocation::RemoveTun(request) => done(driver::remove_tun(&request)),
        Invocation::GenerateKey(request) => done(cli::generate_key(&request, unix_time())),
        Invocation::Help => show(cli::help()),
        Invocation::Version => show(cli::version()),
        Invocation::ShowCiphers => show(cli::show_ciphers()),
        Invocation::ShowDigests => show(cli::show_digests()),
        Invocation::ShowTls => show(cli::show_tls()),
    }
}

fn show(text: String) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

fn done(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway: {error}");
            ExitCode::from(1)
        }
    }
}

fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
