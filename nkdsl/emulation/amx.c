/* Signals, threads, counts and faults of the AMX emulator.

   A CPU without AMX raises #UD at each AMX instruction, and the operating system sends SIGILL. The
   handler executes the instruction, and those that follow, on the tiles of the interrupted thread,
   and lets the thread go on after them.

   Where a tile load or store touches memory that it may not, the CPU would raise a page fault at
   that instruction. Here the page fault happens inside of the SIGILL handler. The handler of
   SIGSEGV (and SIGBUS) leaves both by `siglongjmp`, and queues the signal again, so that it arrives
   when the SIGILL handler has returned: with the registers of the program, RIP at its instruction,
   and the address of the access. Whoever handles SIGSEGV can make the memory accessible and return,
   as on the hardware. Checking memory beforehand would cost a system call for each tile.

   Stacks: the SIGILL handler runs on the stack of the interrupted code, since an alternate stack
   may be as small as the operating system allows. The other two run on the alternate stack if there
   is one: a stack that overflowed is one of the reasons for SIGSEGV. */

#include "amx.h"

#include <cpuid.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static const char *const NAMES[KINDS] = {
    "ldtilecfg", "sttilecfg", "tilerelease", "tilezero", "tileloadd", "tileloaddt1", "tilestored",
    "tdpbf16ps", "tdpfp16ps", "tdpbssd",     "tdpbsud",  "tdpbusd",   "tdpbuud",
};

/* ---- Threads --------------------------------------------------------------------------------- */

struct thread {
    struct tile_state state;
    unsigned session;  /* the session that `state` belongs to */
    sigjmp_buf escape; /* out of an access to memory that failed */
    siginfo_t failure;
    volatile bool guarded; /* `escape` is valid */
};

/* Thread-local variables that any signal handler may read: the C library allocates those of other
   models on first use, perhaps while a signal interrupts an allocation. There is room for few. */
#define IN_ANY_HANDLER static _Thread_local __attribute__((tls_model("initial-exec")))

IN_ANY_HANDLER struct thread *this_thread; /* NULL before the thread's first trap */
IN_ANY_HANDLER bool forwarding;            /* a handler of other origin is being called */

/* Its destructor frees what `this_thread` points to when the thread ends. */
static pthread_key_t end_of_thread;

/* Counts how often the handlers were installed. What tiles held before is forgotten then. */
static atomic_uint session;

static atomic_int configured_threads;

static void free_thread(void *thread)
{
    this_thread = NULL;
    munmap(thread, sizeof(struct thread));
}

__attribute__((constructor)) static void make_key(void)
{
    pthread_key_create(&end_of_thread, free_thread);
}

static struct thread *new_thread(void)
{
    enum { PROTECTION = PROT_READ | PROT_WRITE, FLAGS = MAP_PRIVATE | MAP_ANONYMOUS };
    void *memory = mmap(NULL, sizeof(struct thread), PROTECTION, FLAGS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    pthread_setspecific(end_of_thread, memory);
    return this_thread = memory;
}

/* What is known of this thread; NULL where there is no memory for it. */
static struct thread *enter_thread(void)
{
    struct thread *thread = this_thread != NULL ? this_thread : new_thread();
    if (thread != NULL && thread->session != atomic_load(&session)) {
        memset(&thread->state, 0, sizeof thread->state);
        thread->session = atomic_load(&session);
    }
    return thread;
}

/* ---- Counts ---------------------------------------------------------------------------------- */

static atomic_ullong executed[KINDS], traps;

/* Watched ranges of addresses. A slot is free while its size is zero. */
enum { SLOTS = 256 };
static struct watch {
    atomic_uintptr_t start;
    atomic_size_t size;
    atomic_ullong loads, stores;
} watches[SLOTS];
static atomic_int used_slots; /* all slots from here on are free */

static void add_one(atomic_ullong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static void count_access(uint64_t address, bool is_load)
{
    int slots = atomic_load_explicit(&used_slots, memory_order_acquire);
    for (int i = 0; i < slots; i++) {
        struct watch *watch = &watches[i];
        size_t size = atomic_load_explicit(&watch->size, memory_order_acquire);
        if (address - atomic_load_explicit(&watch->start, memory_order_relaxed) < size)
            add_one(is_load ? &watch->loads : &watch->stores);
    }
}

static void count(const struct instruction *instruction)
{
    add_one(&executed[instruction->kind]);
    switch (instruction->kind) {
    case TILELOADD:
    case TILELOADDT1:
        count_access(instruction->address, true);
        break;
    case TILESTORED:
        count_access(instruction->address, false);
        break;
    default:
        break;
    }
}

/* ---- Faults ---------------------------------------------------------------------------------- */

/* How many contexts want faults to be recorded instead of raised. */
static atomic_int collecting;

enum { RECORDS = 16, TEXT = 256 };
static struct record {
    atomic_bool written;
    uint64_t address;
    char text[TEXT];
} records[RECORDS];
static atomic_uint fault_count; /* goes on where the records end */

/* "tdpbssd tmm0 (16×64), tmm1 (16×64), tmm2 (8×64): #UD: …", with rows × bytes. `snprintf` is no
   function for any signal handler, but this one interrupts no other function of the C library. */
static void describe(char text[TEXT], const struct tile_state *state,
                     const struct instruction *instruction, const char *refusal)
{
    int used = snprintf(text, TEXT, "%s", NAMES[instruction->kind]);
    for (unsigned i = 0; i < instruction->tile_count; i++) {
        unsigned t = instruction->tiles[i];
        used += snprintf(text + used, (size_t)(TEXT - used), "%s tmm%u", i ? "," : "", t);
        if (state->configured && t < TILES)
            used += snprintf(text + used, (size_t)(TEXT - used), " (%u×%u)", state->rows[t],
                             state->row_bytes[t]);
    }
    snprintf(text + used, (size_t)(TEXT - used), ": %s", refusal);
}

static void record_fault(const struct tile_state *state, const struct instruction *instruction,
                         const uint8_t *code, const char *refusal)
{
    unsigned index = atomic_fetch_add(&fault_count, 1);
    if (index >= RECORDS)
        return;
    records[index].address = (uint64_t)code;
    describe(records[index].text, state, instruction, refusal);
    atomic_store_explicit(&records[index].written, true, memory_order_release);
}

static void print_fault(const struct tile_state *state, const struct instruction *instruction,
                        const uint8_t *code, const char *refusal)
{
    char text[TEXT];
    describe(text, state, instruction, refusal);
    dprintf(STDERR_FILENO, "AMX fault at %p: %s\n", (const void *)code, text);
}

/* ---- Execution ------------------------------------------------------------------------------- */

enum outcome {
    EXECUTED,
    NO_AMX,      /* the first instruction is another one */
    REFUSED,     /* the first instruction faulted, and nobody collects faults */
    INTERRUPTED, /* an access to memory failed */
};

/* How many integer instructions are stepped over in the hope of another AMX instruction. */
enum { PATIENCE = 64 };

/* Returns false where a fault has to be raised. */
static bool execute_one(struct thread *thread, const struct instruction *instruction,
                        const uint8_t *code, bool is_first)
{
    struct tile_state *state = &thread->state;
    bool was_configured = state->configured;
    const char *refusal = execute(state, instruction);
    if (refusal == NULL) {
        count(instruction);
        if (state->configured != was_configured)
            atomic_fetch_add(&configured_threads, state->configured ? 1 : -1);
        return true;
    }
    if (atomic_load(&collecting) != 0) {
        record_fault(state, instruction, code, refusal);
        return true;
    }
    if (is_first)
        print_fault(state, instruction, code, refusal);
    return false;
}

/* Execute instructions from RIP on, as long as they are understood. Where one that is not the first
   has to raise a fault, the CPU will trap there again, and it will be the first. */
static enum outcome run(struct thread *thread, registers *state)
{
    bool is_first = true;
    for (int patience = PATIENCE; patience > 0; patience--) {
        const uint8_t *code = (const uint8_t *)(*state)[REG_RIP];
        struct instruction instruction;
        if (decode_amx(code, state, &instruction)) {
            if (!execute_one(thread, &instruction, code, is_first))
                return is_first ? REFUSED : EXECUTED;
            (*state)[REG_RIP] += instruction.length;
            is_first = false;
            patience = PATIENCE;
        } else if (is_first) {
            return NO_AMX;
        } else if (!step_integer(state)) {
            break;
        }
    }
    return EXECUTED;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static const int SIGNALS[] = {SIGILL, SIGSEGV, SIGBUS};
enum { SIGNAL_COUNT = sizeof SIGNALS / sizeof *SIGNALS };

static struct sigaction previous[SIGNAL_COUNT]; /* where a handler of ours is installed */
static atomic_bool active;

static struct sigaction *previous_of(int signal)
{
    int i = 0;
    while (SIGNALS[i] != signal)
        i++;
    return &previous[i];
}

/* Send this thread a signal that arrives when the present handler has returned. Its code may be one
   that only the kernel uses: a thread may send itself any. */
static void deliver_on_return(int signal, siginfo_t *info)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), signal, info) != 0)
        raise(signal);
}

static void default_action(int signal, siginfo_t *info)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(signal, &action, NULL);
    deliver_on_return(signal, info);
}

/* Leave a signal to whoever had it before.

   A handler may put back what it displaced and raise the signal again, as Python's faulthandler
   does. What it displaced may be ours, installed twice, and then the signal would go round for
   ever: the second time it takes its default action. */
static void forward(int signal, siginfo_t *info, void *context)
{
    const struct sigaction *to = previous_of(signal);
    bool sent = info->si_code <= 0;
    if (to->sa_handler == SIG_IGN && sent)
        return;
    if (to->sa_handler == SIG_DFL || to->sa_handler == SIG_IGN || (forwarding && sent)) {
        default_action(signal, info);
        return;
    }
    forwarding = true;
    if (to->sa_flags & SA_SIGINFO)
        to->sa_sigaction(signal, info, context);
    else
        to->sa_handler(signal);
    forwarding = false;
}

/* A function of its own: few variables live in it when `siglongjmp` comes back. */
__attribute__((noinline)) static enum outcome run_guarded(struct thread *thread, registers *state)
{
    if (sigsetjmp(thread->escape, 0) != 0)
        return INTERRUPTED;
    thread->guarded = true;
    return run(thread, state);
}

/* Handle an access to memory that failed. That to an integer operand, or to code, the CPU will
   repeat by itself. */
static void after_bad_access(struct thread *thread)
{
    if (thread->state.accessing)
        deliver_on_return(thread->failure.si_signo, &thread->failure);
    thread->state.accessing = false;
}

static void on_illegal_instruction(int signal, siginfo_t *info, void *raw)
{
    ucontext_t *context = raw;
    bool sent = info->si_code <= 0;
    struct thread *thread = atomic_load(&active) && !sent ? enter_thread() : NULL;
    enum outcome outcome = NO_AMX;
    if (thread != NULL) {
        outcome = run_guarded(thread, &context->uc_mcontext.gregs);
        thread->guarded = false;
    }
    switch (outcome) {
    case EXECUTED:
        add_one(&traps);
        break;
    case INTERRUPTED:
        after_bad_access(thread);
        break;
    case NO_AMX:
    case REFUSED:
        forward(signal, info, raw);
    }
}

static void on_bad_access(int signal, siginfo_t *info, void *context)
{
    struct thread *thread = this_thread;
    if (thread == NULL || !thread->guarded || info->si_code <= 0) {
        forward(signal, info, context);
        return;
    }
    thread->failure = *info;
    siglongjmp(thread->escape, 1);
}

static struct sigaction handler_of(int signal)
{
    /* SA_NODEFER: a handler that is called from ours may raise the signal again, and one that is
       left by a jump leaves no signal blocked. */
    struct sigaction action = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    if (signal == SIGILL) {
        action.sa_sigaction = on_illegal_instruction;
    } else {
        action.sa_sigaction = on_bad_access;
        action.sa_flags |= SA_ONSTACK;
    }
    return action;
}

static bool is_installed(int signal)
{
    struct sigaction current;
    sigaction(signal, NULL, &current);
    return current.sa_sigaction == handler_of(signal).sa_sigaction;
}

/* ---- What Python calls; one thread at a time ------------------------------------------------- */

/* Whether the CPU and the operating system have tiles: then no instruction traps. */
PUBLIC bool amx_is_native(void)
{
    enum { AMX_TILE = 1 << 24, OSXSAVE = 1 << 27, TILE_COMPONENTS = 3 << 17 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_TILE))
        return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & TILE_COMPONENTS) == TILE_COMPONENTS;
}

/* Forget tiles and faults. To be called while the handlers are not installed. */
PUBLIC void amx_reset(void)
{
    atomic_fetch_add(&session, 1);
    atomic_store(&configured_threads, 0);
    atomic_store(&fault_count, 0);
    for (int i = 0; i < RECORDS; i++)
        atomic_store(&records[i].written, false);
}

/* Install the handlers, or install them again where others displaced them. */
PUBLIC void amx_install(void)
{
    for (int i = 0; i < SIGNAL_COUNT; i++) {
        struct sigaction action = handler_of(SIGNALS[i]), displaced;
        if (is_installed(SIGNALS[i]))
            continue;
        sigaction(SIGNALS[i], NULL, &displaced);
        previous[i] = displaced;
        sigaction(SIGNALS[i], &action, NULL);
    }
    atomic_store(&active, true);
}

/* Put back what the handlers displaced; a handler that displaced one of them stays. It may put ours
   back later: all that ours then does is forward. */
PUBLIC void amx_remove(void)
{
    atomic_store(&active, false);
    for (int i = 0; i < SIGNAL_COUNT; i++)
        if (is_installed(SIGNALS[i]))
            sigaction(SIGNALS[i], &previous[i], NULL);
}

/* Add to the number of contexts that want faults to be recorded. */
PUBLIC void amx_collect(int change)
{
    atomic_fetch_add(&collecting, change);
}

/* The name of a kind of instruction, or NULL from the number of kinds on. */
PUBLIC const char *amx_name(unsigned kind)
{
    return kind < KINDS ? NAMES[kind] : NULL;
}

PUBLIC uint64_t amx_executed(unsigned kind)
{
    return atomic_load(&executed[kind]);
}

PUBLIC uint64_t amx_traps(void)
{
    return atomic_load(&traps);
}

/* Threads whose tiles are configured; one that ended without releasing them stays counted. */
PUBLIC int amx_configured_threads(void)
{
    return atomic_load(&configured_threads);
}

PUBLIC unsigned amx_fault_count(void)
{
    return atomic_load(&fault_count);
}

/* The text of a fault, and the address of its instruction; NULL where it was not kept. */
PUBLIC const char *amx_fault(unsigned index, uint64_t *address)
{
    if (index >= RECORDS || !atomic_load_explicit(&records[index].written, memory_order_acquire))
        return NULL;
    *address = records[index].address;
    return records[index].text;
}

/* Count accesses to a range of addresses. Returns its slot, or -1 where all are in use. */
PUBLIC int amx_watch(uint64_t start, size_t size)
{
    for (int i = 0; i < SLOTS; i++) {
        if (atomic_load(&watches[i].size) != 0)
            continue;
        atomic_store(&watches[i].loads, 0);
        atomic_store(&watches[i].stores, 0);
        atomic_store(&watches[i].start, start);
        atomic_store(&watches[i].size, size);
        if (i >= atomic_load(&used_slots))
            atomic_store(&used_slots, i + 1);
        return i;
    }
    return -1;
}

PUBLIC uint64_t amx_watched_loads(int slot)
{
    return atomic_load(&watches[slot].loads);
}

PUBLIC uint64_t amx_watched_stores(int slot)
{
    return atomic_load(&watches[slot].stores);
}

PUBLIC void amx_unwatch(int slot)
{
    atomic_store(&watches[slot].size, 0);
}
