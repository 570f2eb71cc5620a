#!/usr/bin/env python3
"""A stand-in of OpenPBS 23.06 for tests, where there is no real one (tests/cluster/openpbs.sh).

    pbs.py setup FOLDER     FOLDER/bin gets qsub, qstat, qalter, qdel and qsig; FOLDER/home is the HOME of the jobs
    pbs.py stop FOLDER      kills all jobs with what they started

There is no daemon. A command reads FOLDER/jobs.json, changes it and writes it, under a lock. Each job that runs has a
process ("pbs.py run FOLDER ID") that does what MOM does. While there is a file FOLDER/away, no command finds the server.
FOLDER has no blanks in its name; PBS_KILL_DELAY (10 s) is what it was at setup. Queues: workq, and feed, a routing queue to
fed, which takes no job from elsewhere.

Dependencies follow src/server/req_register.c, variables src/cmds/qsub.c and src/lib/Libattr/attr_fn_arst.c, lines of qstat
src/cmds/qstat.c, and all of it what a real server was seen to do.
"""
import contextlib, fcntl, getopt, json, os, pwd, re, shlex, signal, subprocess, sys, time

HOST = os.uname().nodename
QUEUES = {"workq": "workq", "feed": "fed"}
AFTER = {"after": "before", "afterok": "beforeok", "afternotok": "beforenotok", "afterany": "beforeany"}
BEFORE = {before: after for after, before in AFTER.items()}
jobs = {}


class Refused(Exception):
    """what a command says and returns"""
    def __init__(self, text, status=1):
        super().__init__(text)
        self.status = status


@contextlib.contextmanager
def locked():
    """`jobs` as they are; what is left of them at the end is written, and who can run then starts"""
    with open(f"{folder}/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{folder}/jobs.json") as file:
            jobs.clear()
            jobs.update(json.load(file))
        yield
        schedule()
        with open(f"{folder}/new", "w") as file:
            json.dump(jobs, file)
        os.replace(f"{folder}/new", f"{folder}/jobs.json")


def full(name):
    name = name.split("@")[0]
    return name if "." in name else name + ".server"


def find(name, finished=False):
    job = jobs.get(full(name))
    if job is None:
        raise Refused(f"Unknown Job Id {full(name)}", 153)
    if job["state"] == "F" and not finished:
        raise Refused(f"{full(name)} Job has finished, use -x or -H to obtain historical job information", 35)
    return job


def parts(array, states="RF"):
    return [job for job in jobs.values() if job.get("array") == array["id"] and job["state"] in states]


# ---- who runs ----
def schedule():
    for job in list(jobs.values()):
        while job.get("waiting") and job["state"] in "QB" and len(parts(job, "R")) < job["limit"]:
            job["state"] = "B"
            index = job["waiting"].pop(0)
            own = {"id": job["id"].replace("[]", f"[{index}]"), "array": job["id"], "index": str(index), "depend": {}}
            run({name: value for name, value in job.items() if name not in ("waiting", "limit", "indices")} | own)
        if job["state"] == "Q" and "indices" not in job:
            run(job)


def run(job):
    job["state"] = "R"
    jobs[job["id"]] = job
    with open(f"{folder}/log", "a") as log:
        subprocess.Popen([sys.executable, "-IS", __file__, "run", folder, job["id"]], start_new_session=True,
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for child in job["depend"].pop("before", []):
        release(child, "after", job)


def send(leader, number):
    """the signal to all processes of the session; returns how many there are"""
    found = sorted((pid for pid, session in processes() if session == leader and leader), reverse=True) # children first
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(found)


def processes():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            if fields[0] not in b"ZX":
                yield int(pid), int(fields[3])


# ---- dependencies: "depend" of a job has whom it waits for (after...), and who waits for it (before...) ----
def alter_depend(job, text):
    """A type that is named is replaced, others stay; the former parents keep the job on their lists."""
    wanted = {}
    for part in text.split(","):
        kind, _, ids = part.partition(":")
        if not ids or kind not in AFTER or re.search(r"\[\d", ids):
            raise Refused("illegal -W value", 2)
        wanted.setdefault(kind, []).extend(map(full, ids.split(":")))
    for kind, ids in wanted.items():
        job["depend"].pop(kind, None)
        job["depend"][kind] = ids
    set_hold(job)
    for kind, ids in wanted.items():
        for parent in list(ids):
            register(job, kind, jobs.get(parent))


def register(job, kind, parent):
    if parent is None or parent["state"] == "F" and (kind, parent["exit"] != 0) in (("afterok", True), ("afternotok", False)):
        abort(job)
    elif parent["state"] == "F" or kind == "after" and parent["state"] in "RB":
        release(job["id"], kind, parent)
    elif job["id"] not in parent["depend"].setdefault(AFTER[kind], []):
        parent["depend"][AFTER[kind]].append(job["id"])


def set_hold(job):
    if job["state"] in "HQ":
        job["state"] = "H" if set(job["depend"]) & set(AFTER) else "Q"


def release(child, kind, parent):
    child = jobs[child]
    if parent["id"] in child["depend"].get(kind, []):
        child["depend"][kind].remove(parent["id"])
        if not child["depend"][kind]:
            del child["depend"][kind]
        set_hold(child)


def abort(job):
    """as the result of a dependency"""
    if job["state"] == "R":
        send(job["session"], signal.SIGKILL)
    elif job["state"] != "F":
        job["state"] = "F"
        for kind in set(job["depend"]) & set(BEFORE):
            for child in job["depend"][kind]:
                abort(jobs[child])


def end(job, status):
    job["state"], job["exit"] = "F", status
    if "array" in job:
        array = jobs[job["array"]]
        array["exit"] = 1 if status else array["exit"]
        if array["waiting"] or parts(array, "R"):
            return
        job = array
        job["state"] = "F"
    for kind in set(job["depend"]) & set(BEFORE):
        good = kind == "beforeany" or (kind == "beforeok") == (job["exit"] == 0 and not job["deleted"])
        for child in job["depend"][kind]:
            if good:
                release(child, BEFORE[kind], job)
            else:
                abort(jobs[child])


# ---- MOM ----
def mom(id):
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGQUIT: # which whoever called qsub may have ignored
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    with locked():
        job = jobs[id]
        shell = start_shell(job)
        job["session"] = shell.pid
    limit = time.monotonic() + job["walltime"]
    kill = float("inf")
    over = False
    with open(f"{folder}/kill_delay") as file:
        delay = float(file.read())
    # Of a job that is to end the shell may be gone before the others are.
    while shell.poll() is None or kill < float("inf") and send(shell.pid, 0):
        now = time.monotonic()
        if now >= kill:
            break
        if kill == float("inf") and (now >= limit or os.path.exists(f"{folder}/spool/{id}.qdel")):
            kill, over = now + delay, now >= limit
            send(shell.pid, signal.SIGTERM)
        time.sleep(0.1 if kill == float("inf") else 0.5)
    send(shell.pid, signal.SIGKILL)
    status = shell.wait()
    while os.path.exists(f"{folder}/away"):
        time.sleep(0.1)
    with locked():
        end(jobs[id], -29 if over else status if status >= 0 else 256 - status)


def start_shell(job):
    """the login shell, which reads the name of the job's script"""
    has, user, home = job["attributes"], pwd.getpwuid(os.getuid()).pw_name, f"{folder}/home"
    nodes = f"{folder}/spool/{job['id']}.nodes"
    with open(nodes, "w") as file:
        file.write(f"{HOST}\n" * int(has["Resource_List.mpiprocs"]))
    environment = dict(
        PATH="/usr/local/bin:/usr/bin:/bin", **job["variables"], HOME=home, LOGNAME=user, USER=user, SHELL="/bin/bash",
        ENVIRONMENT="BATCH", PBS_ENVIRONMENT="PBS_BATCH", PBS_JOBCOOKIE=folder, PBS_JOBDIR=home, PBS_JOBID=job["id"],
        PBS_JOBNAME=has["Job_Name"], PBS_QUEUE=has["queue"], PBS_NODEFILE=nodes, NCPUS=job["ncpus"], OMP_NUM_THREADS=job["ncpus"])
    if "array" in job:
        environment.update(PBS_ARRAY_INDEX=job["index"], PBS_ARRAY_ID=job["array"])
    output = has["Output_Path"].partition(":")[2].replace("^array_index^", job.get("index", ""))
    if os.path.isdir(output):
        output = f"{output}/{job['id']}.OU"
    name = f"{folder}/spool/{job['id']}.name"
    with open(name, "w") as file:
        file.write(f"{folder}/spool/{job.get('array', job['id'])}.SC\n")
    with open(name) as file, open(output, "w") as out:
        return subprocess.Popen(["-bash"], executable="/bin/bash", stdin=file, stdout=out, stderr=out, start_new_session=True,
                                cwd=home, env=environment, umask=int(has.get("umask", "77"), 8))


# ---- qsub -v ----
def escape(value, plain):
    """copy_env_value: the value as it goes into the list, and what is left. With `plain`, quotes quote and commas end it."""
    out, quote = "", ""
    for at, char in enumerate(value):
        if char in "\"'" and plain and quote in ("", char):
            quote = "" if quote else char
        elif char == "," and plain and not quote:
            if out[-1:] != "\\":
                return out, value[at + 1:]
            out += char
        elif char in "\"'," or char == "\\" and value[at + 1:at + 2] != ",":
            out += "\\" + char
        else:
            out += char
    if quote:
        raise Refused("cannot send environment with the job")
    return out, ""


def comma_tokens(text):
    """comma_token: cuts at commas outside of quotes; a quote of the other kind takes the place of the first"""
    quote, start, skip = "", 0, False
    for at, char in enumerate(text):
        if skip or char == "\\":
            skip = not skip
        elif char in "\"'":
            quote = "" if char == quote else char
        elif char == "," and not quote:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def variables(text):
    """what arrives of it: it goes twice through copy_env_value, and the server takes the backslashes off"""
    once, twice = [], ""
    for token in filter(None, comma_tokens(text)):
        name, equals, value = token.partition("=")
        if not equals and name not in os.environ:
            raise Refused("cannot send environment with the job")
        once.append(f"{name}={escape(value if equals else os.environ[name], plain=bool(equals))[0]}")
    rest = ",".join(once)
    while rest:
        name, _, rest = rest.partition("=")
        value, rest = escape(rest, plain=True)
        twice += f"{name}={value},"
    items = (re.sub(r"\\([\"',\\])", r"\1", item.strip()) for item in re.findall(r"(?:\\.|[^,\\])+", twice, re.S))
    return dict(item.split("=", 1) for item in items if "=" in item)


# ---- commands ----
def options(words):
    found = {"l": {}, "W": {}}
    pairs, rest = getopt.getopt(words, "a:A:c:C:e:fhj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:z")
    for name, value in pairs:
        if name in ("-l", "-W"):
            found[name[1:]].update(part.split("=", 1) for part in re.split(r",(?=\w+=)", value))
        else:
            found[name[1:]] = value
    return found, rest


def seconds(time):
    total = 0
    for part in time.split(":"):
        total = 60 * total + int(part)
    return total


def resource_list(asked):
    """and the sums of the chunks, which are read-only"""
    chosen = dict(asked)
    for name in {"nodect", "mpiprocs", "ncpus", "mem", "ngpus"} & set(chosen):
        if name == "nodect" or "select" in chosen:
            raise Refused(f'"-lresource=" cannot be used with "select" or "place", resource is: {name}')
    if "walltime" in chosen:
        total = seconds(chosen["walltime"])
        chosen["walltime"] = f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"
    chosen.setdefault("place", "free" if "select" in chosen else "pack")
    chosen.setdefault("select", f"1:ncpus={chosen.get('ncpus', 1)}")
    sums = {"ncpus": 0, "mpiprocs": 0, "nodect": 0}
    for chunk in chosen["select"].split("+"):
        count, *rest = chunk.split(":")
        for name, value in ({"nodect": 1, "mpiprocs": 1} | dict(part.split("=") for part in rest)).items():
            sums[name] = sums.get(name, 0) + int(count) * int(value)
    return {f"Resource_List.{name}": str(value) for name, value in sorted((chosen | sums).items())}


def qsub(words):
    given, (script,) = options(words)
    with open(script) as file:
        text = file.read()
    for line in text.split("\n"):
        if line.startswith("#PBS"):
            found = options(shlex.split(line[4:]))[0]
            given = {**found, **given, "l": found["l"] | given["l"], "W": found["W"] | given["W"]}
    queue = given.get("q", "workq")
    if queue not in QUEUES:
        raise Refused("Access to queue is denied" if queue == "fed" else "Unknown queue", 174)
    number = 12 + sum("array" not in job for job in jobs.values())
    id, index = (f"{number}[].server", ".^array_index^") if "J" in given else (f"{number}.server", "")
    name, directory = given.get("N", os.path.basename(script)), os.environ.get("PWD", os.getcwd())
    has = {
        "Job_Name": name, "Job_Owner": f"{pwd.getpwuid(os.getuid()).pw_name}@{HOST}", "queue": QUEUES[queue], "server": "server",
        "Account_Name": given.get("A"), "group_list": given["W"].get("group_list"), "Join_Path": given.get("j", "n"),
        "Keep_Files": given.get("k", "n"), "Mail_Points": given.get("m", "a"), "Mail_Users": given.get("M"),
        "Output_Path": f"{HOST}:" + os.path.join(directory, given.get("o", f"{name}.o{number}{index}").split(":")[-1]),
        "Priority": given.get("p", "0"), "Rerunable": str(given.get("r", "y") == "y"), **resource_list(given["l"]),
        "umask": given["W"].get("umask", "").lstrip("0") or None, "Submit_arguments": " ".join(words),
        "project": given.get("P", "_pbs_project_default")}
    own = {f"PBS_O_{name}": os.environ[name] for name in ("HOME", "LANG", "LOGNAME", "PATH", "SHELL") if name in os.environ}
    jobs[id] = job = {
        "id": id, "state": "Q", "exit": 0, "deleted": False, "session": 0, "depend": {},
        "attributes": {name: value for name, value in has.items() if value is not None},
        "variables": {**own, "PBS_O_WORKDIR": directory, **variables(given.get("v", "")), "PBS_O_QUEUE": queue, "PBS_O_HOST": HOST},
        "ncpus": dict(re.findall(r"(\w+)=(\w+)", has["Resource_List.select"].split("+")[0])).get("ncpus", "1"),
        "walltime": seconds(given["l"].get("walltime", "99999:00:00"))}
    if "J" in given:
        first, last, limit = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", given["J"]).groups("999")
        job.update(indices=f"{first}-{last}", waiting=list(range(int(first), int(last) + 1)), limit=int(limit))
    with open(f"{folder}/spool/{id}.SC", "w") as file:
        file.write(text)
    os.chmod(file.name, 0o700)
    if "depend" in given["W"]:
        alter_depend(job, given["W"]["depend"])
    print(id)


def show(name, value):
    """in lines of 78 characters, which go on behind a tab, after a comma or in the midst of a long part"""
    line, at = f"    {name} = ", len(name) + 7
    rest = [part for part in value.split(",") if part]
    for k, part in enumerate(rest):
        if at + len(part) < 78:
            line, at = line + part, at + len(part)
        else:
            if k:
                line, at = line + "\n\t", 9
            for char in part:
                line, at = line + char, at + 1
                if at > 78:
                    line, at = line + "\n\t", 8
        if k < len(rest) - 1:
            line += ","
    print(line)


def qstat(words):
    flags, names = getopt.getopt(words, "fx")
    finished = ("-x", "") in flags
    for name in names or [id for id, job in jobs.items() if "array" not in job and (finished or job["state"] != "F")]:
        job = find(name, finished)
        depend = ",".join(":".join([kind] + [f"{id}@server" for id in ids]) for kind, ids in job["depend"].items())
        listed = ",".join(re.sub(r"([\"',\\])", r"\\\1", f"{name}={value}") for name, value in job["variables"].items())
        has = dict(job["attributes"], job_state=job["state"], depend=depend, Variable_List=listed, array_id=job.get("array"),
                   array_indices_submitted=job.get("indices"), Exit_status=str(job["exit"]) if job["state"] == "F" else None)
        print("Job Id:", job["id"])
        for name, value in has.items():
            if value:
                show(name, value)
        print()


def qalter(words):
    pairs, names = getopt.getopt(words, "W:")
    for name in names:
        job = find(name)
        if job["state"] == "R":
            raise Refused(f"Cannot modify attribute while job running  depend {job['id']}", 38)
        alter_depend(job, dict(pairs)["-W"].partition("=")[2])


def qdel(names):
    for name in names:
        job = find(name)
        job["deleted"], job["waiting"] = True, []
        for one in parts(job, "R") or [job]:
            one["deleted"] = True
            if one["state"] == "R":
                open(f"{folder}/spool/{one['id']}.qdel", "w").close()
            else: # who waits for it waits for ever
                one["state"] = "F"


def qsig(words):
    pairs, names = getopt.getopt(words, "s:")
    for name in names:
        job = find(name)
        if job["state"] != "R" or not send(job["session"], getattr(signal, "SIG" + dict(pairs)["-s"])):
            raise Refused(f"Request invalid for state of job {job['id']}", 18)


def setup():
    for name in "bin", "home", "spool":
        os.makedirs(f"{folder}/{name}")
    for command in COMMANDS:
        with open(f"{folder}/bin/{command.__name__}", "w") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} -IS {os.path.abspath(__file__)} {command.__name__} {folder} "$@"\n')
        os.chmod(file.name, 0o755)
    with open(f"{folder}/jobs.json", "w") as file, open(f"{folder}/kill_delay", "w") as delay:
        file.write("{}")
        delay.write(os.environ.get("PBS_KILL_DELAY", "10"))


def stop():
    """until none is left: those who would start more, and what has the cookie of a job"""
    open(f"{folder}/away", "w").close()
    for _ in range(100):
        found = False
        for pid, _ in processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as its, open(f"/proc/{pid}/cmdline", "rb") as line:
                if f"PBS_JOBCOOKIE={folder}\0".encode() in its.read() or f"\0run\0{folder}\0".encode() in line.read():
                    os.kill(pid, signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.05)


COMMANDS = qsub, qstat, qalter, qdel, qsig


def main():
    os.umask(0o022)
    for command in COMMANDS:
        if command.__name__ == sys.argv[1]:
            if os.path.exists(f"{folder}/away"):
                raise Refused("cannot connect to server server (errno=15010)", 2)
            with locked():
                command(sys.argv[3:])
            return
    {"setup": setup, "stop": stop, "run": mom}[sys.argv[1]](*sys.argv[3:])


folder = sys.argv[2]
sys.stdout.reconfigure(errors="surrogateescape")
try:
    main()
except (Refused, getopt.GetoptError) as error:
    sys.stderr.write(f"{sys.argv[1]}: {error}\n")
    sys.exit(getattr(error, "status", 2))
