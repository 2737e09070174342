//! A command in a terminal of its own: what it shows, what is typed, and how it ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::screen::Screen;
use crate::support::{dbctl, eventually};

/// What a terminal does with what is typed and shown.
type Settings = (String, String, String, String);

pub struct Terminal {
    master: File,
    /// Kept open, for what is set on it outlives whoever set it.
    slave: OwnedFd,
    child: Child,
    output: Receiver<Vec<u8>>,
    before: Settings,
    half: Vec<u8>,
    pub screen: Screen,
}

fn settings(terminal: &OwnedFd) -> Settings {
    let Termios { input_modes, output_modes, control_modes, local_modes, .. } = tcgetattr(terminal).unwrap();
    let text = |modes: &dyn std::fmt::Debug| format!("{modes:?}");
    (text(&input_modes), text(&output_modes), text(&control_modes), text(&local_modes))
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Runs `dbctl --sandbox ARGS` in one of so many rows and columns.
    pub fn run(home: &Path, (rows, columns): (u16, u16), args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&master, size(rows, columns)).unwrap();
        let before = settings(&slave);
        let own = dbctl(home);
        // The program becomes the first of a session of its own, whose terminal this is: only so Ctrl-C reaches it. Nor is
        // Ctrl-C ignored, as it is by what a script runs in the background.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "env", "--default-signal=INT"])
            .arg(own.get_program())
            .arg("--sandbox")
            .args(args)
            .env("TERM", "xterm");
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let end = || slave.try_clone().unwrap();
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop(command);
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let (sender, output) = channel();
        // Ends when nobody has the terminal open any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = Screen::new(usize::from(rows), usize::from(columns));
        Self { master, slave, child, output, before, half: Vec::new(), screen }
    }

    /// Takes in what was written by now.
    pub fn look(&mut self) {
        while let Ok(bytes) = self.output.try_recv() {
            self.half.extend(bytes);
        }
        let whole = match std::str::from_utf8(&self.half) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.half.split_off(whole);
        let text = String::from_utf8(std::mem::replace(&mut self.half, rest)).unwrap();
        self.screen.write(&text);
    }

    /// Waits until the screen is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, so: impl Fn(&Screen) -> bool) {
        eventually(what, || {
            self.look();
            if so(&self.screen) { Ok(()) } else { Err(format!("the screen:\n{}", self.screen.text())) }
        });
    }

    #[track_caller]
    pub fn until_shown(&mut self, text: &str) {
        self.until(&format!("{text:?} is shown"), |screen| screen.text().contains(text));
    }

    /// Waits for some pictures more, so that what is seen is none of before.
    #[track_caller]
    pub fn redrawn(&mut self) {
        let homes = self.screen.homes;
        self.until("it is redrawn", |screen| screen.homes >= homes + 2);
    }

    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Makes the terminal another size; the program is told, as by any terminal.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.look();
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
        self.screen.resize(usize::from(rows), usize::from(columns));
    }

    /// Waits for the end; whatever it was, the terminal is as it was before.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let status = eventually("it ends", || {
            self.look();
            let ended = self.child.try_wait().unwrap();
            ended.ok_or_else(|| format!("the screen:\n{}", self.screen.text()))
        });
        assert_eq!(settings(&self.slave), self.before, "the terminal's settings");
        // With nobody left who could write, the reader ends when it has read everything.
        drop(self.slave);
        while let Ok(bytes) = self.output.recv() {
            self.half.extend(bytes);
        }
        self.screen.write(&String::from_utf8(self.half).unwrap());
        assert!(self.screen.cursor, "the cursor is hidden:\n{}", self.screen.text());
        assert_eq!(self.screen.unknown, Vec::<String>::new());
        Ended { status, text: self.screen.text() }
    }
}

/// How a command ended, and what is left on the screen.
pub struct Ended {
    status: ExitStatus,
    pub text: String,
}

impl Ended {
    /// With that code, by itself.
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.status, self.text);
        self
    }

    /// By Ctrl-C, which a shell tells as 130.
    #[track_caller]
    pub fn interrupted(self) -> Self {
        assert_eq!(self.status.signal(), Some(2), "{}\n{}", self.status, self.text);
        self
    }
}
