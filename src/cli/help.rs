//! The examples and notes under each command's help.

/// Under the help of the command as a whole.
pub const EXAMPLES: &str = "\
Examples:
  strongroom init --store /backup/store
  export STRONGROOM_STORE=/backup/store
  strongroom backup --name orders api=/srv/api db=/srv/db
  strongroom list
  strongroom restore orders@latest --to /tmp/orders
  strongroom verify";

/// Under `init`.
pub const INIT: &str = "\
Example:
  strongroom init --store /backup/store";

/// Under `backup`.
pub const BACKUP: &str = "\
The member's name may be omitted: then it is the last component of the path. A word A=B is read as
member A and path B. If a file called A=B is there and B is not, it is read as a path; if both are
there, it is refused. Write ./A=B for a path and A=./B for a member to be sure.

Files whose times, length and inode are as in the generation before are not read again (see
--reread). A member that cannot be read as a whole is left out, the others are backed up, and the
command exits with 3. The directory of the store is left out if it lies inside a source.

After an interruption, run the same command again: what is stored so far is reused.

Examples:
  strongroom backup --name orders /srv/api /srv/db
  strongroom backup --name orders api=/srv/api/data db=/var/lib/db --checksum sha256
  strongroom backup --name laptop --store /media/disk/store --init home=$HOME
  strongroom backup --name orders /srv/api --json | jq .bytes_stored

Deployments of strongroom.toml are backed up by name. Their members are stopped, their snapshots
made, the members started, and the snapshots downloaded, stored and read back, as far as their
executor can do these things. Nothing is visible before everything is durable.

  strongroom backup --plan orders
  strongroom backup --all
  strongroom backup orders --scope subtree --select shard-1";

/// Under `resume`.
pub const RESUME: &str = "\
What a run has done is in its journal in the store; a step that was begun and not ended is not
believed to be done: the service is asked. Repeating the same `backup` does the same.

Examples:
  strongroom resume
  strongroom resume 20261123t020000z-0a1b2c3d";

/// Under `run`.
pub const RUN: &str = "\
Examples:
  strongroom run list orders
  strongroom run show 20261123t020000z-0a1b2c3d
  strongroom run abandon 20261123t020000z-0a1b2c3d --reason 'the fleet was rebuilt'";

/// Under `status`.
pub const STATUS: &str = "\
A deployment is overdue if its newest generation is older than its setting `every`.

Examples:
  strongroom status
  strongroom status --check || mail -s 'backups' admin";

/// Under `config`.
pub const CONFIG: &str = "\
Examples:
  strongroom config show
  strongroom config show --json | jq .deployments";

/// Under `list`.
pub const LIST: &str = "\
Examples:
  strongroom list
  strongroom list orders
  strongroom list --json | jq '.generations[] | select(.partial)'";

/// Under `show`.
pub const SHOW: &str = "\
With --json, every regular file is listed with its checksums and how it was cut.

Examples:
  strongroom show orders
  strongroom show orders@g3:api
  strongroom show orders --json | jq -r '.members[].files[] | .checksums.blake3 + \"  \" + .path'";

/// Under `ls`.
pub const LS: &str = "\
Paths are printed from the member on, so that they can be put behind 'REF:'. If standard output is
a terminal, bytes that cannot be printed appear as \\xNN; otherwise names are printed as they are.

Examples:
  strongroom ls orders
  strongroom ls -l orders@g3:api/etc
  strongroom ls -R orders:db | wc -l";

/// Under `cat`.
pub const CAT: &str = "\
Every chunk is checked before it is written. With --json, the file is described (length, checksums)
and its content is not written.

Examples:
  strongroom cat orders@g3:api/etc/config.toml
  strongroom cat orders:db/dump.sql | psql orders";

/// Under `diff`.
pub const DIFF: &str = "\
Each line begins with + (added), - (removed), M (content changed), m (only mode, owner, time or
attributes changed) or T (another kind of thing), and the bytes that are new (for - those that are
gone). Contents are compared by their chunks and not read. Exits with 5 if there are differences.

Examples:
  strongroom diff orders@g2 orders@g3
  strongroom diff orders@g2:api orders:api
  strongroom diff orders@g2 orders --json | jq '.changes[] | select(.kind == \"content\") | .path'";

/// Under `restore`.
pub const RESTORE: &str = "\
A generation becomes DIR/MEMBER/..., a member DIR/MEMBER, and what lies at a path becomes DIR/...
itself. Everything is checked while it is written. A path that is damaged in the store or that the
target refuses does not stop the others.

Owners are restored when run as root. After an interruption, run the same command again:
what is in place already is kept.

With --apply, a generation that `backup` made of a configured deployment goes back into the service:
everything is uploaded first; then all members are stopped from the top down, loaded, started in
reverse, and checked. What fails before the first load leaves all members running as before. After
that a half restored deployment must not run: its members stay stopped, and `resume` goes on.

Examples:
  strongroom restore orders --to /tmp/orders
  strongroom restore orders@g3:api/etc --to /tmp/etc
  strongroom restore orders@g3 --to /srv --overwrite
  strongroom restore orders@g3 --plan
  strongroom restore orders@g3 --apply
  strongroom restore orders@g3 --apply --into staging --map ids.json";

/// Under `verify`.
pub const VERIFY: &str = "\
Exits with 4 if damage was found, with 1 if something could only not be read. For every damage, the
generations and paths are listed that it touches; nothing else is affected by it.

A word after --read is taken as a share if it is a number or a percentage, else as the first REF.

Examples:
  strongroom verify
  strongroom verify --read 5%
  strongroom verify --structure
  strongroom verify --full orders@latest";

/// Under `prune`.
pub const PRUNE: &str = "\
Without --apply, says what would be forgotten and removed, and why the rest is kept. A generation is
kept if any rule keeps it, if it is pinned, or if it is the newest of its deployment. The order is
that of the commits; a clock that was wrong never makes a newer generation count as older.

With --apply, generations are forgotten at once, and `undo` brings them back for the time of --grace.
What only they needed is removed by a later prune, so run it regularly. Backups may run meanwhile.
With --grace 0 all is removed at once, and nothing else may write to the store.

After an interruption, run the same command again. Exits with 4 if something cannot be read; what may
need it or be in it stays.

Examples:
  strongroom prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12
  strongroom prune --keep-within 30d --keep-yearly 10 orders --apply
  strongroom prune --forget orders@g3 --apply
  strongroom prune --collect-only --apply
  strongroom prune --keep-last 3 --json | jq '.forgotten[] | {deployment, generation}'";

/// Under `pin`.
pub const PIN: &str = "\
Examples:
  strongroom pin orders@g3
  strongroom pin orders";

/// Under `unpin`.
pub const UNPIN: &str = "\
Examples:
  strongroom unpin orders@g3";

/// Under `undo`.
pub const UNDO: &str = "\
What was forgotten comes back whole, as long as no later prune has begun to remove what it needs (see
--grace of prune).

Examples:
  strongroom undo
  strongroom undo orders@g3 orders@g4";

/// Under `stats`.
pub const STATS: &str = "\
Examples:
  strongroom stats
  strongroom stats orders@g2 orders@g3
  strongroom stats --json | jq '.generations[] | {generation, freed_stored_bytes}'";

/// Under `import` and its formats.
pub const IMPORT: &str = "\
The directory is checked the way canic-backup checks it, and the checksum of every artifact is
computed anew; nothing becomes visible unless all of it is right. Roles, parents, topology and
snapshots are kept with the generation. Unfinished backups and unknown fields are refused, and no
symbolic link is followed.

If the newest generation of the deployment came from the same backup, no second one is made.

Examples:
  strongroom import canic /backups/fleet-2026-03-01 --name fleet
  strongroom import canic ./backup --name fleet --store /backup/store --init
  strongroom import canic ./backup --name fleet --json | jq .created";

/// Under `export` and its formats.
pub const EXPORT: &str = "\
Only generations of runs and imports can be exported: plain backups of directories know no roles,
topology and snapshots. The members' names must be principals.

The directory appears all at once when it is complete. After an interruption, run the same command
again: what is in place already is kept.

Examples:
  strongroom export canic fleet --to /tmp/backup
  strongroom export canic fleet@g3 --to ./backup --json | jq '.members[].checksum.value'";

/// Under `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  strongroom completions bash > ~/.local/share/bash-completion/completions/strongroom
  strongroom completions zsh > \"${fpath[1]}/_strongroom\"
  strongroom completions fish > ~/.config/fish/completions/strongroom.fish";

/// Under `man`.
pub const MAN: &str = "\
Examples:
  strongroom man | man -l -
  strongroom man --to /usr/local/share/man/man1";
