"""Questions in a person's own words and the texts that answer them, written before any ranking was tuned on them.

One question per line, parted from its answers by " | "; of several answers, parted by commas, each is right.
"""

from __future__ import annotations

_COMMANDS = """
    how do I see only the first few lines of a file | head
    follow a log while new lines are appended to it | tail, less
    how much room is left on my hard disk | df
    which folders are eating up my disk | du
    throw away duplicate lines next to each other | uniq
    put the lines of a text in alphabetical order | sort
    how many words are in my essay | wc
    show what two versions of a text file don't have in common | diff, sdiff, cmp
    make a shortcut to a file in another folder | ln
    change who owns a file | chown
    make a script executable for everybody | chmod
    wait half a minute before going on | sleep
    kill a command that takes longer than ten seconds | timeout
    keep my job running after I log out | nohup, setsid
    start something with a lower priority so that it doesn't slow others | nice, ionice
    lower the priority of a program that is already running | renice
    which processes use most of the CPU right now | top, ps
    how much RAM is free | free
    since when has this machine been up | uptime, w
    who else is logged in here | who, w, users
    what is my own user name | whoami, id, logname
    which groups does my account belong to | groups, id
    what is the name of this computer in the network | hostname, hostnamectl
    which kernel version am I running | uname
    set the date a file was last touched | touch
    look for files by name below a directory | find, locate
    search for a pattern within many files | grep
    replace a word by another in a stream of text | sed
    pick the third column out of a table with commas | cut, awk, mawk
    put two files side by side, line by line | paste
    merge two sorted tables on a common key | join
    turn all letters into capitals | tr
    number each line of a listing | nl, cat
    print a file backwards, last line first | tac
    cut a huge file into smaller pieces | split, csplit
    shuffle lines into a random order | shuf
    destroy a file so that nobody can recover it | shred
    check that a download was not corrupted | md5sum, sha256sum, sha1sum, sha512sum, cksum, b2sum
    encode a binary so that it can be put into an e-mail | base64, basenc, base32
    look at the bytes of a file in base sixteen | xxd, hexdump, hd, od
    which type of content is in this unknown file | file
    pull readable words out of a binary | strings
    compress a file so well that it gets as small as possible | xz, bzip2, zstd, gzip
    pack a whole directory into one archive | tar, zip
    get files out of an archive made on Windows | unzip
    read a compressed log without unpacking it first | zcat, zless, zmore, zgrep
    download a page of the web from the command line | wget, curl
    fetch a URL and send headers of my own | curl
    log in to another machine over an encrypted line | ssh
    copy files to a remote host securely | scp, sftp
    make a new key pair for logging in | ssh-keygen
    keep my private keys unlocked while I work | ssh-agent, ssh-add
    let me log in to a server without a password by installing my public key | ssh-copy-id
    change my password | passwd
    become another user for a moment | su, runuser
    where is the executable of a command found | which, whereis, which.debianutils
    which manual pages talk about a topic | apropos, man
    a one line description of what a command is for | whatis
    write down everything that my terminal shows | script
    play a recorded terminal session again | scriptreplay
    repeat a command every two seconds and show its output on the whole screen | watch
    run the same command for each line that comes in | xargs
    see output on the screen and keep it in a file too | tee
    print numbers from one to a hundred | seq
    do arithmetic with decimals in the shell | bc, expr
    show the days of this month | cal, ncal
    what time is it in another format | date
    set the time zone of this computer | timedatectl, tzselect
    list the services that are running | systemctl
    read the messages of the system's log | journalctl
    why does my machine boot so slowly | systemd-analyze
    see messages of the kernel about new hardware | dmesg
    which files does this process have open | lsof, fuser
    which system calls does a program make | strace
    find where my C program leaks memory | valgrind, memusage, mtrace
    the tree of parent and child processes | pstree
    stop all processes that have a certain name | killall, pkill
    find the number of a process by its name | pgrep, pidof
    pin a process to some of the cores | taskset
    details about my processor | lscpu
    make a directory with all its missing parents | mkdir
    delete an empty folder | rmdir
    the real location that a symbolic link leads to | readlink, realpath
    strip the folders off a path | basename
    only the folder part of a path | dirname
    make a temporary file with a unique name | mktemp
    reserve space for a file without writing to it | fallocate
    copy a disk block by block | dd
    wrap long lines at eighty characters | fold, fmt
    turn tabs into blanks | expand
    show a table with columns that line up | column, pr
    apply somebody's patch to my sources | patch
    build a program from a list of rules that says what depends on what | make, gmake
    show names of the symbols in an object file | nm
    disassemble a binary | objdump
    remove debug information to make a program smaller | strip
    which shared libraries does a program need | ldd, objdump
    turn a program's address into a file and a line number | addr2line
    measure how long a command takes | time
    set a variable only for the command that I start | env
    read JSON and pick a field from it | jq
    record my changes in the repository with a message | git-commit
    put aside unfinished work to have a clean tree | git-stash
    who wrote this line and when | git-blame, git-annotate
    find the change that broke it by halving the history | git-bisect
    take one commit from another branch over to mine | git-cherry-pick
    undo an old commit by a new one | git-revert
    throw away untracked files of the tree | git-clean
    show the history of the project | git-log
    get a copy of somebody's repository | git-clone
    bring back a lost commit after a reset | git-reflog
    put my commits on top of the newest upstream | git-rebase
    have two branches checked out in two directories at once | git-worktree
    ask a database for rows from the shell | psql, sqlite3
    back up one database into a script | pg_dump
    sign a document so that others can verify it is from me | gpg, gpgsm
    what does this certificate contain | x509, openssl-x509
    show which packages are installed | dpkg-query, dpkg
"""

_PYTHON = """
    turn a dictionary into a JSON string | json.dumps
    read a JSON file that is open | json.load
    copy a whole directory tree | shutil.copytree
    delete a folder with everything in it | shutil.rmtree
    move a file elsewhere, also across disks | shutil.move
    copy a file along with its timestamps | shutil.copy2
    how wide is the terminal | shutil.get_terminal_size
    zip up a folder in one call | shutil.make_archive
    find an executable on the search path | shutil.which
    visit every file below a directory | os.walk
    create nested directories unless they are there | os.makedirs
    a folder that vanishes when I am done with it | tempfile.TemporaryDirectory
    a scratch file that has a visible name | tempfile.NamedTemporaryFile
    files that match a wildcard | glob.glob, glob.iglob
    does a file name match a shell pattern | fnmatch.fnmatch
    ask for a password without showing it | getpass.getpass, getpass.unix_getpass
    parse command line options in the old C style | getopt.getopt
    remember results of a function that is called again and again | functools.lru_cache
    keep the name and doc of a decorated function | functools.wraps, functools.update_wrapper
    choose an implementation by the type of the first argument | functools.singledispatch
    count how often each element occurs | collections.Counter
    a dictionary with a value for missing keys | collections.defaultdict
    tuples whose fields have names | collections.namedtuple
    search several dictionaries as if they were one | collections.ChainMap
    the three elements that occur most often | collections.Counter.most_common
    generate the boilerplate of a class that only holds data | dataclasses.dataclass
    turn a record into a plain dictionary, also what is nested | dataclasses.asdict
    ignore certain exceptions in a block | contextlib.suppress
    write a context manager as a generator | contextlib.contextmanager
    send what is printed to a file instead | contextlib.redirect_stdout
    combine a varying number of with statements | contextlib.ExitStack
    which known words look most like a misspelt one | difflib.get_close_matches
    how alike are two sequences, as a number | difflib.SequenceMatcher.ratio
    compare two texts and print changes like a patch | difflib.unified_diff, difflib.context_diff, difflib.ndiff
    show differences of two files side by side in a browser | difflib.HtmlDiff, difflib.HtmlDiff.make_file
    evaluate a string that holds only a constant, safely | ast.literal_eval
    go through a syntax tree and change nodes | ast.NodeTransformer
    get the source code of a function | inspect.getsource
    which arguments would a call bind to which names | inspect.getcallargs
    start a program and collect its output | subprocess.check_output, subprocess.run, subprocess.Popen.communicate
    run a command and fail if its exit code is not zero | subprocess.check_call, subprocess.run
    split text wherever a regular expression matches | re.split
    replace matches of a pattern by something else | re.sub, re.subn
    all places where an expression occurs in a string | re.findall
    break a paragraph into lines of limited width | textwrap.wrap, textwrap.fill
    remove the common left margin of a block of text | textwrap.dedent
    cut a sentence to fit and end it with dots | textwrap.shorten
    put a prefix before every line | textwrap.indent
    the middle value of a list of numbers | statistics.median
    the average of floats, fast | statistics.fmean, statistics.mean
    how spread out is a sample | statistics.variance, statistics.stdev, statistics.pvariance
    fit a straight line to points | statistics.linear_regression
    how strongly do two variables depend on each other | statistics.correlation, statistics.covariance
    which value is the most common one in the data | statistics.mode, statistics.multimode
    cut data into four parts of equal probability | statistics.quantiles
    draw some elements without replacement | random.sample, random.Random.sample
    a token that is safe to put into a link | secrets.token_urlsafe
    are two floats nearly equal | math.isclose, cmath.isclose
    in how many ways can I choose k of n things | math.comb
    how far apart are two points | math.dist
    check a message for authenticity with a shared key | hmac.new, hmac.digest
    hash a big file without reading it at once | hashlib.file_digest
    make text safe to show in a web page | html.escape
    guess the content type from a file's ending | mimetypes.guess_type, mimetypes.MimeTypes.guess_type
    open a page in the user's default browser | webbrowser.open
    send a mail to several people | smtplib.SMTP.sendmail, smtplib.SMTP.send_message
    switch a mail connection to encryption | smtplib.SMTP.starttls
    upload a file to a file server in binary mode | ftplib.FTP.storbinary
    listen on a port for connections over IPv4 and IPv6 | socket.create_server
    connect to a host by name with a timeout | socket.create_connection
    secure defaults for talking TLS | ssl.create_default_context
    is this address one of the local network | ipaddress.IPv6Address.is_private
    split a network into smaller ones | ipaddress._BaseNetwork.subnets
    do something later in another thread, unless cancelled before | threading.Timer.run, threading.Timer
    let only some threads in at the same time | threading.Semaphore, threading.BoundedSemaphore
    wait until all queued work has been processed | queue.Queue.join
    make threads wait for one another at a point | threading.Barrier.wait
    set up messages to a log file with a format, once | logging.basicConfig
    get told of a signal by calling a function of mine | signal.signal
    time a small snippet of code precisely | timeit.Timer.timeit, timeit.Timer, timeit.timeit
    where does my program spend its time | cProfile.Profile, profile.Profile, cProfile.run, profile.run
    run the examples that are in my docstrings | doctest.testmod, doctest.testfile
    turn a warning into an exception | warnings.simplefilter, warnings.filterwarnings
    print the call stack of an error | traceback.print_exception, traceback.print_tb, traceback.format_exception
    import a module whose name is in a string | importlib.import_module
    execute a module as if it were the main script | runpy.run_module
    store objects in a file that works like a dictionary | shelve.open
    unpack all members of a tarball | tarfile.TarFile.extractall
    write a string straight into an archive | zipfile.ZipFile.writestr
    merge iterables that are sorted already | heapq.merge
    order tasks so that each comes after what it needs | graphlib.TopologicalSorter.static_order
    read an INI file | configparser.RawConfigParser.read, configparser.RawConfigParser.read_file
    round a decimal number to cents | decimal.Decimal.quantize
    the closest fraction with a small denominator | fractions.Fraction.limit_denominator
    an identifier from the host and the current time | uuid.uuid1
    change standard input line by line, from files named on the command line | fileinput.input, fileinput.FileInput
    call something when an object is garbage collected | weakref.finalize
    create an isolated environment for packages | venv.EnvBuilder
    on which operating system am I, as one readable string | platform.platform
    wait for several sockets until one can be read | select.select, select.epoll.poll
    compress bytes in memory with the gzip format | gzip.compress
    tell the type checker that a value has a type | typing.cast
    format numbers with the separators of the user's country | locale.format_string
"""


def asked(what: str) -> list[tuple[str, frozenset[str]]]:
    """(question, names of what answers it) of "commands" (pages of section 1) or "python" (docstrings)."""
    found = []
    for line in {"commands": _COMMANDS, "python": _PYTHON}[what].strip().splitlines():
        question, _, answers = line.strip().partition(" | ")
        found.append((question, frozenset(answers.split(", "))))
    return found
