//! What a sandboxed process tries. Each prints what the kernel answered: a word, `ok` or the
//! errno's name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::{io, ptr, thread};

pub fn run(args: &[String]) {
    let arg = |i: usize| args.get(i).map_or("", String::as_str);
    let pid = || arg(1).parse::<libc::pid_t>().unwrap();
    let say = match arg(0) {
        "read" => word(File::open(arg(1)).and_then(|mut f| f.read(&mut [0; 64]))),
        "list" => word(fs::read_dir(arg(1))),
        "write" => word(fs::write(arg(1), "x")),
        "append" => word(OpenOptions::new().append(true).open(arg(1))),
        "make_run" => make_and_run(),
        "rename" => word(fs::rename(arg(1), arg(2))),
        "truncate" => word(truncate(arg(1))),
        "exec" => word(Command::new(arg(1)).spawn().map(drop)),
        "mknod" => word(mknod()),
        "device" => device(arg(1)),
        "connect" => word(connect(arg(1))),
        "abstract" => word(abstract_connect(arg(1))),
        "socket" => word(raw(libc::SYS_socket, [arg(1).parse().unwrap(), 1, 0, 0, 0])),
        "tcp" => word(std::net::TcpStream::connect(arg(1))),
        "socketpair" => word(UnixStream::pair()),
        "signal_others" => signal_others(pid()),
        "signal_self" => signal_self(),
        "look_into" => look_into(pid()),
        "sabotage" => sabotage(pid()),
        "privileged" => privileged(),
        "identity" => identity(),
        "fork" => forks(),
        "fork_bomb" => fork_bomb(),
        "children" => children(),
        "threads" => threads(),
        "files" => files(),
        "memory" => word(memory(arg(1).parse().unwrap())),
        "long_file" => long_file(arg(1).parse().unwrap()),
        "limits" => raise_limits(),
        "descriptors" => descriptors(),
        "socket_3" => word(socket_3()),
        "place" => place(),
        "env" => std::env::var(arg(1)).unwrap_or_else(|_| "unset".into()),
        "env_names" => env_names(),
        "escape_death" => escape_death(),
        "odd_calls" => odd_calls(),
        "proc" => proc(),
        "proc_later" => {
            socket_3_turn().unwrap();
            proc()
        }
        "wait" => {
            println!("ready");
            loop {
                thread::park();
            }
        }
        other => panic!("no attack {other:?}"),
    };
    println!("{say}");
}

fn word<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => errno(e.raw_os_error().unwrap_or(0)),
    }
}

fn errno(code: i32) -> String {
    match code {
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        libc::ENOSYS => "ENOSYS".into(),
        libc::EMFILE => "EMFILE".into(),
        libc::ENOMEM => "ENOMEM".into(),
        libc::EFBIG => "EFBIG".into(),
        libc::EXDEV => "EXDEV".into(),
        other => format!("errno {other}"),
    }
}

fn call(f: impl FnOnce() -> i32) -> io::Result<i32> {
    match f() {
        -1 => Err(io::Error::last_os_error()),
        ok => Ok(ok),
    }
}

/// A raw call with up to five numbers.
fn raw(number: i64, args: [i64; 5]) -> io::Result<i64> {
    let [a, b, c, d, e] = args;
    // SAFETY: whoever calls it passes numbers and null pointers only.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()),
        ok => Ok(ok),
    }
}

fn truncate(path: &str) -> io::Result<i32> {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: a terminated string.
    call(|| unsafe { libc::truncate(path.as_ptr(), 0) })
}

fn make_and_run() -> String {
    let own = std::env::current_exe().unwrap();
    let copied = fs::copy(own, "copy").map(drop);
    let error = std::os::unix::process::CommandExt::exec(&mut Command::new("./copy"));
    format!("{} {}", word(copied), word::<()>(Err(error)))
}

fn mknod() -> io::Result<i32> {
    // SAFETY: a terminated string.
    call(|| unsafe { libc::mknod(c"node".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)) })
}

/// Opens it and asks an ioctl of it.
fn device(path: &str) -> String {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) => word::<()>(Err(e)),
        Ok(file) => {
            let mut out = [0_u64; 8];
            // TIOCGWINSZ: few devices know it, but a refusal is another errno than theirs.
            // SAFETY: the buffer is larger than what the call writes.
            let asked = call(|| unsafe {
                libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, out.as_mut_ptr())
            });
            format!("ok {}", word(asked))
        }
    }
}

fn connect(path: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)
}

fn abstract_connect(name: &str) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address)
}

fn join(words: Vec<(&str, String)>) -> String {
    let parts: Vec<String> = words.iter().map(|(n, w)| format!("{n}={w}")).collect();
    parts.join(" ")
}

fn signal_others(pid: i32) -> String {
    let pid = i64::from(pid);
    let mut pair = [0; 2];
    // SAFETY: room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
    assert_eq!(made, 0);
    let fd = i64::from(pair[0]);
    let info = Box::leak(Box::new([0_u64; 16]));
    let info = ptr::from_mut(info) as i64;
    let pidfd = raw(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0]);
    let by_pidfd = match pidfd {
        Ok(fd) => raw(libc::SYS_pidfd_send_signal, [fd, 15, 0, 0, 0]),
        Err(e) => Err(e),
    };
    join(vec![
        ("kill", word(raw(libc::SYS_kill, [pid, 15, 0, 0, 0]))),
        ("all", word(raw(libc::SYS_kill, [-1, 15, 0, 0, 0]))),
        ("tkill", word(raw(libc::SYS_tkill, [pid, 15, 0, 0, 0]))),
        ("tgkill", word(raw(libc::SYS_tgkill, [pid, pid, 15, 0, 0]))),
        (
            "queue",
            word(raw(libc::SYS_rt_sigqueueinfo, [pid, 15, info, 0, 0])),
        ),
        ("pidfd", word(by_pidfd)),
        ("owner", word(raw(libc::SYS_fcntl, [fd, 8, pid, 0, 0]))),
    ])
}

fn signal_self() -> String {
    extern "C" fn count(_: libc::c_int) {
        COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let handler = count as extern "C" fn(libc::c_int);
    // SAFETY: the handler only adds to an atomic.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    // SAFETY: numbers only.
    let results = unsafe {
        [
            libc::kill(libc::getpid(), libc::SIGUSR1),
            libc::raise(libc::SIGUSR1),
            libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1),
            // Its terminal's interrupt, which it must outlive.
            libc::kill(libc::getpid(), libc::SIGINT),
        ]
    };
    format!(
        "{results:?} {}",
        COUNT.load(std::sync::atomic::Ordering::SeqCst)
    )
}

fn look_into(pid: i32) -> String {
    let mut byte = 0_u8;
    let local = libc::iovec {
        iov_base: ptr::from_mut(&mut byte).cast(),
        iov_len: 1,
    };
    let vm = |number| {
        let iov = ptr::from_ref(&local) as i64;
        word(raw(number, [i64::from(pid), iov, 1, iov, 1]))
    };
    let file = |name: &str| word(File::open(format!("/proc/{pid}/{name}")));
    let attach = i64::from(libc::PTRACE_ATTACH);
    let seize = i64::from(libc::PTRACE_SEIZE);
    let pid = i64::from(pid);
    join(vec![
        (
            "attach",
            word(raw(libc::SYS_ptrace, [attach, pid, 0, 0, 0])),
        ),
        ("seize", word(raw(libc::SYS_ptrace, [seize, pid, 0, 0, 0]))),
        ("readv", vm(libc::SYS_process_vm_readv)),
        ("writev", vm(libc::SYS_process_vm_writev)),
        ("mem", file("mem")),
        ("environ", file("environ")),
        ("fd", file("fd/0")),
        ("exe", word(fs::read_link(format!("/proc/{pid}/exe")))),
        ("kcmp", word(raw(libc::SYS_kcmp, [pid, pid, 0, 0, 0]))),
    ])
}

/// What the same user may do to another process although it may not look into it.
fn sabotage(pid: i32) -> String {
    let limit = [0_u64; 2];
    let limit = ptr::from_ref(&limit) as i64;
    let cpus = [1_u64; 16];
    let cpus = ptr::from_ref(&cpus) as i64;
    let param = 0_i32;
    let param = ptr::from_ref(&param) as i64;
    let p = i64::from(pid);
    let nofile = i64::from(libc::RLIMIT_NPROC);
    let idle = i64::from(libc::SCHED_IDLE);
    join(vec![
        (
            "limit",
            word(raw(libc::SYS_prlimit64, [p, nofile, limit, 0, 0])),
        ),
        (
            "oom",
            word(append(&format!("/proc/{pid}/oom_score_adj"), "1000")),
        ),
        (
            "cpus",
            word(raw(libc::SYS_sched_setaffinity, [p, 128, cpus, 0, 0])),
        ),
        (
            "idle",
            word(raw(libc::SYS_sched_setscheduler, [p, idle, param, 0, 0])),
        ),
        ("nice", word(raw(libc::SYS_setpriority, [0, p, 19, 0, 0]))),
    ])
}

fn append(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

fn privileged() -> String {
    let none = [0_i64; 5];
    let new_user = i64::from(libc::CLONE_NEWUSER);
    let calls: &[(&str, i64, [i64; 5])] = &[
        ("mount", libc::SYS_mount, none),
        ("umount", libc::SYS_umount2, none),
        ("bpf", libc::SYS_bpf, none),
        ("keyctl", libc::SYS_keyctl, none),
        ("add_key", libc::SYS_add_key, none),
        ("perf", libc::SYS_perf_event_open, none),
        ("userfaultfd", libc::SYS_userfaultfd, none),
        ("module", libc::SYS_init_module, none),
        ("kexec", libc::SYS_kexec_load, none),
        ("reboot", libc::SYS_reboot, none),
        ("swapon", libc::SYS_swapon, none),
        ("setns", libc::SYS_setns, none),
        ("unshare", libc::SYS_unshare, [new_user, 0, 0, 0, 0]),
        ("clone", libc::SYS_clone, [new_user | 17, 0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, none),
        ("chroot", libc::SYS_chroot, none),
        ("acct", libc::SYS_acct, none),
        ("quotactl", libc::SYS_quotactl, none),
        ("io_uring", libc::SYS_io_uring_setup, none),
        ("handle", libc::SYS_open_by_handle_at, none),
        ("setuid", libc::SYS_setuid, none),
        ("setresuid", libc::SYS_setresuid, [1, 1, 1, 0, 0]),
        ("setgroups", libc::SYS_setgroups, none),
        ("clock", libc::SYS_clock_settime, none),
        ("setsid", libc::SYS_setsid, none),
        ("shmget", libc::SYS_shmget, none),
        ("mq_open", libc::SYS_mq_open, none),
    ];
    let not_refused: Vec<String> = calls
        .iter()
        .map(|(name, number, args)| (name, word(raw(*number, *args))))
        .filter(|(_, answer)| answer != "EPERM")
        .map(|(name, answer)| format!("{name}={answer}"))
        .collect();
    format!(
        "{} refused {}",
        calls.len() - not_refused.len(),
        not_refused.join(" ")
    )
    .trim_end()
    .into()
}

fn identity() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(",")
    };
    join(vec![
        ("uid", field("Uid:")),
        ("gid", field("Gid:")),
        ("groups", field("Groups:")),
        ("permitted", field("CapPrm:")),
        ("effective", field("CapEff:")),
        ("bounding", field("CapBnd:")),
        ("no_new_privs", field("NoNewPrivs:")),
        ("seccomp", field("Seccomp:")),
    ])
}

fn forks() -> String {
    #[cfg(target_arch = "x86_64")]
    let raw_fork = vec![
        ("fork", word(raw(libc::SYS_fork, [0; 5]))),
        ("vfork", word(raw(libc::SYS_vfork, [0; 5]))),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let raw_fork = Vec::new();
    let mut all = raw_fork;
    all.push(("clone", word(raw(libc::SYS_clone, [17, 0, 0, 0, 0]))));
    all.push(("clone3", word(raw(libc::SYS_clone3, [0; 5]))));
    let libc_fork = call(|| {
        // SAFETY: the child ends at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends it without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        pid
    });
    all.push(("libc", word(libc_fork)));
    all.push(("spawn", word(Command::new("/bin/true").spawn().map(drop))));
    join(all)
}

/// Every copy would go on for ever.
fn fork_bomb() -> String {
    let mut born = 0;
    for _ in 0..1000 {
        // SAFETY: the child only waits.
        match unsafe { libc::fork() } {
            -1 => {}
            0 => loop {
                thread::park();
            },
            _ => born += 1,
        }
    }
    format!("{born} born")
}

/// With `processes`: start one, end another.
fn children() -> String {
    let ran = Command::new("/bin/sh")
        .args(["-c", "echo $((6*7))"])
        .output()
        .unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let killed = word(sleeper.kill());
    let status = sleeper.wait().unwrap();
    let away = word(raw(libc::SYS_setsid, [0; 5]));
    let said = String::from_utf8_lossy(&ran.stdout).trim().to_string();
    format!("said={said} kill={killed} {status} setsid={away}")
}

fn threads() -> String {
    let workers: Vec<_> = (0..8).map(|i| thread::spawn(move || i)).collect();
    let sum: i32 = workers.into_iter().map(|w| w.join().unwrap()).sum();
    format!("sum={sum}")
}

fn files() -> String {
    let mut open = Vec::new();
    for _ in 0..10_000 {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(e) => return format!("{} then {}", open.len(), word::<()>(Err(e))),
        }
    }
    format!("{}", open.len())
}

/// Maps and touches so many MiB.
fn memory(mib: usize) -> io::Result<()> {
    let len = mib << 20;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous map, used only within its length.
    let at = unsafe { libc::mmap(ptr::null_mut(), len, rw, private, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for page in (0..len).step_by(4096) {
        // SAFETY: within the map.
        unsafe { at.cast::<u8>().add(page).write_volatile(1) };
    }
    Ok(())
}

fn long_file(bytes: usize) -> String {
    let mut file = File::create("long").unwrap();
    let fits = word(file.write_all(&vec![1; bytes]));
    let beyond = word(file.write_all(b"x"));
    format!("{fits} then {beyond}")
}

/// Core dumps are off, and no limit can be raised again.
fn raise_limits() -> String {
    let get = |resource| {
        let mut limit = libc::rlimit {
            rlim_cur: 1,
            rlim_max: 1,
        };
        // SAFETY: the kernel writes into `limit`.
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        format!("{}/{}", limit.rlim_cur, limit.rlim_max)
    };
    let raise = |resource| {
        let limit = libc::rlimit {
            rlim_cur: 1 << 40,
            rlim_max: 1 << 40,
        };
        // SAFETY: the kernel reads `limit`.
        word(call(|| unsafe {
            libc::setrlimit(resource, &raw const limit)
        }))
    };
    format!(
        "core={} {} nofile={} {} fsize={}",
        get(libc::RLIMIT_CORE),
        raise(libc::RLIMIT_CORE),
        get(libc::RLIMIT_NOFILE),
        raise(libc::RLIMIT_NOFILE),
        raise(libc::RLIMIT_FSIZE),
    )
}

/// What is open beyond standard output and error, without the directory being read.
fn descriptors() -> String {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let fd: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let target = target
            .display()
            .to_string()
            .replace(&std::process::id().to_string(), "PID");
        let kind = target.split(':').next().unwrap().to_string();
        if fd != 1 && fd != 2 && kind != "/proc/PID/fd" {
            open.push((fd, kind));
        }
    }
    open.sort();
    open.iter()
        .map(|(fd, kind)| format!("{fd}={kind}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Says that it is there, and waits for an answer.
fn socket_3_turn() -> io::Result<()> {
    // SAFETY: as in `socket_3`.
    let mut socket = unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(3) };
    socket.write_all(b"x")?;
    socket.read_exact(&mut [0; 1])
}

fn socket_3() -> io::Result<()> {
    // SAFETY: descriptor 3 is the socket the stage put there; nobody else here owns it.
    let mut socket = unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(3) };
    socket.write_all(b"from 3")
}

fn place() -> String {
    // SAFETY: numbers only.
    let (sid, umask) = unsafe { (libc::getsid(0), libc::umask(0)) };
    let own_session = sid == i32::try_from(std::process::id()).unwrap();
    let cwd = std::env::current_dir().unwrap();
    let is_cwd = |key: &str| std::env::var_os(key).is_some_and(|v| Path::new(&v) == cwd);
    let empty = fs::read_dir(".").unwrap().next().is_none();
    let stdin = io::stdin().read(&mut [0; 1]).unwrap();
    format!(
        "session={own_session} umask={umask:o} home={} tmpdir={} empty={empty} stdin={stdin} {}",
        is_cwd("HOME"),
        is_cwd("TMPDIR"),
        word(fs::write("mine", "x")),
    )
}

fn env_names() -> String {
    let mut names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    names.sort();
    names.join(" ")
}

/// A plugin that would like to outlive its parent.
fn escape_death() -> String {
    let clear = i64::from(libc::PR_SET_PDEATHSIG);
    let cleared = word(raw(libc::SYS_prctl, [clear, 0, 0, 0, 0]));
    let mut signal = 0;
    // SAFETY: the kernel writes an int into `signal`.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    format!("{cleared} {signal}")
}

/// Numbers that no list knows.
fn odd_calls() -> String {
    join(vec![
        ("new", word(raw(600, [0; 5]))),
        ("x32", word(raw((1 << 30) + 39, [0; 5]))),
    ])
}

/// What it needs of /proc to start threads and to know its machine.
fn proc() -> String {
    let read = |path: &str| word(fs::read_to_string(path));
    join(vec![
        ("maps", read("/proc/self/maps")),
        ("task", word(fs::read_dir("/proc/self/task"))),
        ("cpuinfo", read("/proc/cpuinfo")),
        ("meminfo", read("/proc/meminfo")),
        ("init", read("/proc/1/status")),
    ])
}
