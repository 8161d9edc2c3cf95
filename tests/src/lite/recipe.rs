//! What the lite appliance under test consists of, as tables.
//!
//! On Debian the packages have Debian's names; rolls speak of the RHEL family's. [`extra_provides`] makes the RPMs provide those names
//! too, so that the very rolls that ship with the product apply.

/// Raised when the converter or these tables change what comes out, so that a cached appliance is made anew.
pub const RECIPE_VERSION: u32 = 6;

/// Debian packages of the base system; essential ones come by themselves.
pub const BASE: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "rpm",
    "dnf",
    "ca-certificates",
    "iproute2",
    "udev",
    "ifupdown",
    "openssh-server",
    "curl",
    "python3-minimal",
    "kmod",
    "e2fsprogs",
    "less",
    "procps",
    "gpgv",
    "mawk",
    "sudo",
    "tzdata",
];

/// Debian packages that only the frontend's mirror holds: what rolls ask for beyond the base.
pub const ADDON: &[&str] = &[
    "vim",
    "openjdk-17-jre-headless",
    "chrony",
    "rsync",
    "tmux",
    "tree",
    "gcc",
    "make",
    "git",
    "environment-modules",
    "nfs-common",
    // What an image of its own boots with.
    "linux-image-cloud-amd64",
    "grub-common",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
];

/// Packages that resolution brings and that must not come in: the package manager that this is not.
pub const NEVER: &[&str] = &["apt"];

/// The RHEL family's names for what a Debian package is.
pub fn extra_provides(debian: &str) -> &'static [&'static str] {
    match debian {
        name if name.starts_with("linux-image-6") => &["kernel"],
        "grub-common" => &["grub2-tools"],
        "grub-pc-bin" => &["grub2-pc", "grub2-pc-modules"],
        "grub-efi-amd64-bin" => &["grub2-efi-x64-modules"],
        "vim" => &["vim-enhanced"],
        "vim-common" => &["vim-filesystem"],
        "openjdk-17-jre-headless" => &["java-17-openjdk-headless", "java-headless", "jre-headless"],
        "openssh-client" => &["openssh", "openssh-clients"],
        "iproute2" => &["iproute"],
        "procps" => &["procps-ng"],
        "libc6" => &["glibc"],
        "libc-bin" => &["glibc-common"],
        "passwd" => &["shadow-utils"],
        "gnupg" => &["gnupg2"],
        "cron" => &["cronie"],
        "g++" => &["gcc-c++"],
        "libc6-dev" => &["glibc-devel"],
        "xz-utils" => &["xz"],
        "nfs-common" => &["nfs-utils"],
        "udev" => &["systemd-udev"],
        "libpam-modules" => &["pam"],
        "python3" | "python3-minimal" => &["python3-core"],
        "init-system-helpers" => &["initscripts-service"],
        "base-files" => &["redhat-release", "system-release"],
        "dash" => &["/bin/sh", "/usr/bin/sh"],
        _ => &[],
    }
}

/// What belongs to a system here because it is essential, and elsewhere because something needs it.
pub fn extra_requires(debian: &str) -> &'static [&'static str] {
    match debian {
        "base-files" => &[
            "systemd-sysv",
            "login",
            "mount",
            "passwd",
            "hostname",
            "grep",
            "sed",
            "gzip",
            "findutils",
            "diffutils",
            "ncurses-base",
            "ncurses-bin",
            "procps",
            "udev",
            "dbus",
            "kmod",
            "ca-certificates",
            "tzdata",
        ],
        _ => &[],
    }
}

/// Libraries whose sonames are provided in RPM's way; the packages that our own RPMs need.
pub const PROVIDES_SONAMES: &[&str] = &["libc6", "libgcc-s1", "libsystemd0", "zlib1g"];

/// What a distribution's packager would run after installation where a maintainer script was left out.
pub fn post_script(debian: &str) -> Option<&'static str> {
    Some(match debian {
        "vim" => {
            "update-alternatives --install /usr/bin/vim vim /usr/bin/vim.basic 30 >/dev/null 2>&1 || :\n\
             update-alternatives --install /usr/bin/vi vi /usr/bin/vim.basic 30 >/dev/null 2>&1 || :\n"
        }
        "openjdk-17-jre-headless" => {
            "for d in /usr/lib/jvm/java-17-openjdk-*; do\n  [ -x $d/bin/java ] && \
             update-alternatives --install /usr/bin/java java $d/bin/java 1711 >/dev/null 2>&1\ndone\n:\n"
        }
        "chrony" => {
            "[ -e /etc/chrony/chrony.conf ] || cp /usr/share/chrony/chrony.conf /etc/chrony/chrony.conf 2>/dev/null || :\n"
        }
        _ => return None,
    })
}

/// Folders of the filesystem RPM, which no other package owns.
pub const COMMON_FOLDERS: &[&str] = &[
    "usr",
    "etc",
    "var",
    "opt",
    "srv",
    "run",
    "tmp",
    "home",
    "root",
    "dev",
    "proc",
    "sys",
    "boot",
    "mnt",
    "media",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib32",
    "usr/lib64",
    "usr/libx32",
    "usr/local",
    "usr/share",
    "usr/include",
    "usr/share/doc",
    "usr/share/man",
    "usr/lib/systemd",
    "usr/lib/systemd/system",
    "usr/lib/systemd/system-preset",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "var/lib",
    "var/cache",
    "var/log",
    "var/tmp",
    "etc/default",
    "etc/rpm",
];

/// /etc/passwd of the appliance; sysusers.d adds the rest.
pub const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
man:x:6:12:man:/var/cache/man:/usr/sbin/nologin
messagebus:x:100:101::/nonexistent:/usr/sbin/nologin
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
_chrony:x:102:106:Chrony daemon:/var/lib/chrony:/usr/sbin/nologin
systemd-network:x:998:998::/:/usr/sbin/nologin
systemd-timesync:x:997:997::/:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";

/// /etc/group of the appliance.
pub const GROUP: &str = "\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
mail:x:8:
man:x:12:
kmem:x:15:
dialout:x:20:
cdrom:x:24:
sudo:x:27:
wheel:x:28:
tape:x:26:
audio:x:29:
utmp:x:43:
shadow:x:42:
video:x:44:
staff:x:50:
users:x:100:
messagebus:x:101:
_ssh:x:102:
kvm:x:103:
render:x:104:
sgx:x:105:
_chrony:x:106:
input:x:107:
systemd-journal:x:999:
systemd-network:x:998:
systemd-timesync:x:997:
nogroup:x:65534:
";

/// Which units a fresh appliance has enabled. systemd takes the first match, so this file's name sorts before Debian's.
pub const PRESET: &str = "\
enable ssh.service
enable networking.service
enable getty@.service
enable remote-fs.target
enable dbus.socket
enable rocks-agent.service
disable *
";
