# SPDX-License-Identifier: Apache-2.0 OR MIT
# Kelpie's build. `make help` lists the targets. Sources are found by wildcard: a new x.c, x_test.c or
# x_fuzz.c is built without a change here. Another build of the same tree lives in another folder:
#
#     make BUILD=build/asan SANITIZE=-fsanitize=address,undefined build/asan/src/vm/vm_test

BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= clang
GUEST_CC ?= musl-gcc
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
MANDIR ?= $(PREFIX)/share/man
BASH_COMPLETIONS := $(PREFIX)/share/bash-completion/completions
ZSH_COMPLETIONS := $(PREFIX)/share/zsh/site-functions
FISH_COMPLETIONS := $(PREFIX)/share/fish/vendor_completions.d
VERSION := 1.1.0
SOVERSION := 1

PACKAGES := jansson libarchive libcrypto libxxhash
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
            -Wswitch-enum -Wvla -Wformat=2
CFLAGS_COMMON := -std=gnu17 -O2 -g -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Iinclude -Isrc -MMD -MP \
                 -fno-omit-frame-pointer -fstack-protector-strong $(WARNINGS)
CFLAGS_ALL = $(CFLAGS_COMMON) -fPIC -fvisibility=hidden -pthread \
             $(shell pkg-config --cflags $(PACKAGES)) $(TEST_INCLUDES) $(SANITIZE) $(CFLAGS)
LDLIBS_ALL = $(shell pkg-config --libs $(PACKAGES)) -pthread $(SANITIZE) $(LDFLAGS)

CONFINE_SOURCES := $(filter-out %_test.c,$(wildcard src/confine/*.c))
KRUN_SOURCES := $(filter-out %_test.c,$(wildcard src/krun/*.c)) $(CONFINE_SOURCES)
VMM_SOURCES := $(filter-out %_test.c,$(shell find src/vmm -name '*.c' | sort)) $(CONFINE_SOURCES)
SIM_SOURCES := $(filter-out %_test.c,$(wildcard sim/*.c) $(wildcard sim/peer/*.c))
SIM_ASSEMBLY := $(wildcard sim/*.S)
SIM_RUN_SOURCES := $(filter-out %_test.c,$(wildcard sim/run/*.c))
LIB_SOURCES := $(filter-out %_test.c src/cli/% src/vmm/% src/krun/% src/confine/%,$(shell find src -name '*.c' | sort)) \
               src/vmm/control.c src/krun/control.c $(SIM_SOURCES)
CLI_SOURCES := $(filter-out %_test.c,$(wildcard src/cli/*.c))
GUEST_SOURCES := $(filter-out %_test.c,$(wildcard guest/*.c) $(wildcard src/protocol/*.c) \
                 $(wildcard src/base/*.c))
SUPPORT_SOURCES := $(wildcard tests/support/*.c)
UNIT_SOURCES := $(shell find src guest sim -name '*_test.c' 2>/dev/null | sort)
SUITE_SOURCES := $(shell find tests -name '*_test.c' 2>/dev/null | sort)
FUZZ_SOURCES := $(wildcard fuzz/*_fuzz.c)
BENCH_SOURCES := $(wildcard bench/*.c)

LIB_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/%.o) $(SIM_ASSEMBLY:%.S=$(BUILD)/%.o) $(BUILD)/guest_embed.o \
               $(BUILD)/vmm_embed.o $(BUILD)/krun_embed.o
SIM_RUN_OBJECTS := $(SIM_RUN_SOURCES:%.c=$(BUILD)/%.o)
KRUN_OBJECTS := $(KRUN_SOURCES:%.c=$(BUILD)/%.o)
VMM_OBJECTS := $(VMM_SOURCES:%.c=$(BUILD)/%.o)
BASE_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out %_test.c,$(wildcard src/base/*.c)))
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(BUILD)/%.o)
SUPPORT_OBJECTS := $(SUPPORT_SOURCES:%.c=$(BUILD)/%.o)
GUEST_TEST_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out guest/main.c %_test.c,$(wildcard guest/*.c)))
UNIT_TESTS := $(UNIT_SOURCES:%.c=$(BUILD)/%)
SUITE_TESTS := $(SUITE_SOURCES:%.c=$(BUILD)/%)
FUZZERS := $(FUZZ_SOURCES:%.c=$(BUILD)/%)
BENCH_OBJECTS := $(BENCH_SOURCES:%.c=$(BUILD)/%.o)

# Other builds of the same tree, each by a make of its own.
MAKEFLAGS += --no-print-directory
ASAN := BUILD=$(BUILD)/asan SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all'
TSAN := BUILD=$(BUILD)/tsan SANITIZE=-fsanitize=thread
FUZZING := BUILD=$(BUILD)/fuzzing CC=$(CLANG) \
           SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all'
COVERAGE := BUILD=$(BUILD)/cover SANITIZE='--coverage -O0' CFLAGS=-DKELPIE_COVERAGE

# The rooms in which several threads meet: what `make tsan` runs, on the mock backend.
THREADED := src/host src/vm src/backend/mock src/vmm/x86_64 src/vmm/device tests/conformance \
            tests/fault

.DEFAULT_GOAL := all
.PHONY: all
all: $(BUILD)/kelpie $(BUILD)/libkelpie.a $(BUILD)/libkelpie.so.$(VERSION) $(BUILD)/kelpie-guest ## build the command, the libraries and the guest

# ---- library, command, guest ---------------------------------------------------------------------

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c $< -o $@

$(BUILD)/%.o: %.S
	@mkdir -p $(@D)
	$(CC) -c $< -o $@

# Nothing in src/ can include the simulator.
$(BUILD)/sim/%.o: CFLAGS_COMMON += -I.

# What only tests may include: "support/x.h".
$(BUILD)/%_test.o $(BUILD)/%_fuzz.o: TEST_INCLUDES := -Itests

# The guest is never instrumented: it runs without a C library to report to.
$(BUILD)/guest/%.guest.o: %.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(CFLAGS_COMMON) -Os -ffunction-sections -fdata-sections -fno-pie -c $< -o $@

GUEST_OBJECTS := $(GUEST_SOURCES:%.c=$(BUILD)/guest/%.guest.o)
$(BUILD)/kelpie-guest: $(GUEST_OBJECTS)
	$(GUEST_CC) -static -no-pie -Wl,--gc-sections -s $(GUEST_OBJECTS) -o $@

# The guest program travels inside the library, so that the two always fit and nothing is looked up.
$(BUILD)/guest_embed.o: $(BUILD)/kelpie-guest src/image/guest_embed.S
	@mkdir -p $(@D)
	$(CC) -c -DGUEST_PATH='"$(BUILD)/kelpie-guest"' src/image/guest_embed.S -o $@

# The monitor is one static program: it starts sooner, and is confined to what it was given. Sanitizers cannot be
# linked so. It travels inside the library like the guest.
$(BUILD)/libvmm.a: $(filter-out %/main.o,$(VMM_OBJECTS))
	rm -f $@
	$(AR) rcs $@ $^

# The monitors' system call filters, made once (src/vmm/confine.h, src/krun/confine.h).
$(BUILD)/make-filters: tools/make-filters.c src/vmm/confine_calls.h src/krun/confine_calls.h
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -O2 -Isrc $(WARNINGS) $< -lseccomp -o $@

$(BUILD)/confine_filters.h: $(BUILD)/make-filters
	$< > $@

$(BUILD)/krun_filter.h: $(BUILD)/make-filters
	$< --krun > $@

$(BUILD)/src/vmm/confine.o $(BUILD)/src/krun/confine.o: CFLAGS_COMMON += -I$(BUILD)
$(BUILD)/src/vmm/confine.o: $(BUILD)/confine_filters.h
$(BUILD)/src/krun/confine.o: $(BUILD)/krun_filter.h

$(BUILD)/kelpie-vmm: $(BUILD)/src/vmm/main.o $(BUILD)/libvmm.a $(BASE_OBJECTS)
	$(CC) $(if $(SANITIZE),,-static) $< $(BUILD)/libvmm.a $(BASE_OBJECTS) $(SANITIZE) $(LDFLAGS) \
		-pthread -lxxhash -o $@
	$(if $(SANITIZE),,strip --strip-debug $@)

$(BUILD)/vmm_embed.o: $(BUILD)/kelpie-vmm src/backend/kvm/vmm_embed.S
	@mkdir -p $(@D)
	$(CC) -c -DVMM_PATH='"$(BUILD)/kelpie-vmm"' src/backend/kvm/vmm_embed.S -o $@

# The process that libkrun takes over. It loads libkrun, and so is a dynamic program.
$(BUILD)/libenter.a: $(filter-out %/main.o,$(KRUN_OBJECTS))
	rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/kelpie-krun: $(BUILD)/src/krun/main.o $(BUILD)/libenter.a $(BASE_OBJECTS)
	$(CC) $< $(BUILD)/libenter.a $(BASE_OBJECTS) $(SANITIZE) $(LDFLAGS) -pthread -ldl -o $@
	$(if $(SANITIZE),,strip --strip-debug $@)

$(BUILD)/krun_embed.o: $(BUILD)/kelpie-krun src/backend/libkrun/krun_embed.S
	@mkdir -p $(@D)
	$(CC) -c -DKRUN_PATH='"$(BUILD)/kelpie-krun"' src/backend/libkrun/krun_embed.S -o $@

$(BUILD)/libkelpie.a: $(LIB_OBJECTS)
	rm -f $@
	$(AR) rcs $@ $(LIB_OBJECTS)

$(BUILD)/libkelpie.so.$(VERSION): $(LIB_OBJECTS) src/kelpie.map
	$(CC) -shared -Wl,-soname,libkelpie.so.$(SOVERSION) -Wl,--version-script=src/kelpie.map -Wl,-z,defs \
		$(LIB_OBJECTS) $(LDLIBS_ALL) -o $@
	ln -sf libkelpie.so.$(VERSION) $(BUILD)/libkelpie.so.$(SOVERSION)
	ln -sf libkelpie.so.$(SOVERSION) $(BUILD)/libkelpie.so

$(BUILD)/kelpie: $(CLI_OBJECTS) $(BUILD)/libkelpie.a
	$(CC) $(CLI_OBJECTS) $(BUILD)/libkelpie.a $(LDLIBS_ALL) -o $@

# ---- tests ---------------------------------------------------------------------------------------

# The conformance suite is one program of several files.
CONFORMANCE_SOURCES := $(filter-out %_test.c,$(wildcard tests/conformance/*.c))
$(BUILD)/tests/conformance/conformance_test: $(CONFORMANCE_SOURCES:%.c=$(BUILD)/%.o)

# Guests of a few instructions, each a kernel for our monitor, in the program that runs them.
PAYLOADS := $(patsubst %.S,$(BUILD)/%.elf,$(wildcard tests/payload/*.S))
$(BUILD)/tests/payload/%.elf: tests/payload/%.S tests/payload/payload.inc
	@mkdir -p $(@D)
	$(CC) -nostdlib -static -Wl,-n,-Ttext=0x100000,-e,start,--build-id=none,-z,noexecstack $< -o $@

PAYLOAD_TEST_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/payload/*_test.c))
$(PAYLOAD_TEST_OBJECTS): CFLAGS_COMMON += -DPAYLOAD_FOLDER='"$(BUILD)/tests/payload/"'
$(PAYLOAD_TEST_OBJECTS): $(PAYLOADS)

# Libraries that say they are libkrun, of several versions, and libkrunfw (tests/krun/fake.h).
KRUN_FAKE_FOLDER := $(BUILD)/tests/krun
KRUN_FAKES := $(addprefix $(KRUN_FAKE_FOLDER)/,libkrun.so.1.17.0 libkrun.so.1.16.0 libkrun-plain.so.1.17.0 libkrun-alone.so.1.17.0 \
              libkrun.so.2.0.0 libkrun-still.so.2.0.0)
$(KRUN_FAKE_FOLDER)/libkrun.so.1.16.0 $(KRUN_FAKE_FOLDER)/libkrun-still.so.2.0.0: FAKE_DEFINES := -DFAKE_OLD
$(KRUN_FAKE_FOLDER)/libkrun-plain.so.1.17.0: FAKE_DEFINES := -DFAKE_PLAIN
$(KRUN_FAKE_FOLDER)/libkrun-alone.so.1.17.0: FAKE_DEFINES := -DFAKE_NO_NET
$(filter %.17.0 %.16.0,$(KRUN_FAKES)): tests/krun/fake_krun1.c
$(filter %.2.0.0,$(KRUN_FAKES)): tests/krun/fake_krun2.c
$(KRUN_FAKES): $(BUILD)/tests/krun/fake.o $(BUILD)/libkelpie.a tests/krun/fake.h
	$(CC) -shared $(CFLAGS_ALL) -MF $@.d $(FAKE_DEFINES) $(filter %.c,$^) $(BUILD)/tests/krun/fake.o \
		$(BUILD)/libkelpie.a $(LDLIBS_ALL) -o $@
$(KRUN_FAKE_FOLDER)/libkrunfw.so.5.0.0: tests/krun/fake_krunfw.c
	@mkdir -p $(@D)
	$(CC) -shared $(CFLAGS_ALL) -MF $@.d -Wl,-soname,libkrunfw.so.5 $< -o $@

KRUN_TEST_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard src/krun/*_test.c src/backend/libkrun/*_test.c src/backend/vz/*_test.c tests/vz/*_test.c))
$(KRUN_TEST_OBJECTS): CFLAGS_COMMON += -DKRUN_FAKE_FOLDER='"$(KRUN_FAKE_FOLDER)/"'
$(KRUN_TEST_OBJECTS): $(KRUN_FAKES) $(KRUN_FAKE_FOLDER)/libkrunfw.so.5.0.0

# The vz backend's Objective-C over a double of Apple's framework (tests/vz/framework.h), where there are GNUstep's classes, GCC's
# runtime for Objective-C, and the blocks'; clang compiles it, whatever the rest is compiled with.
GNUSTEP_LIBRARIES := $(foreach name,libBlocksRuntime.so.0 libgnustep-base.so.1.* libobjc.so.4,\
                     $(firstword $(wildcard /usr/lib/$(name) /usr/lib/$(shell uname -m)-linux-gnu/$(name))))
VZ_TEST_FOLDER := $(BUILD)/tests/vz
ifeq ($(words $(GNUSTEP_LIBRARIES))$(if $(shell command -v $(CLANG)),,-),3)
VZ_TEST_OBJECTS := $(addprefix $(VZ_TEST_FOLDER)/,vz_machine.o framework.o dispatch.o objc_glue.o)
VZ_TEST_FLAGS := -x objective-c -fobjc-runtime=gnustep-1.8 -fobjc-legacy-dispatch -fobjc-arc -fblocks -fno-exceptions \
                 -fno-objc-exceptions -std=gnu17 -O1 -g -fPIC -pthread -D_GNU_SOURCE -D__APPLE__ -D__arm64__ -DKELPIE_VZ_DOUBLE \
                 -DVZ_END_TIMEOUT_MS=500 -Iinclude -Isrc -Itests -Itests/vz -MMD -MP -Wall -Wextra -Werror -Wshadow
$(VZ_TEST_FOLDER)/%.o: src/backend/vz/%.m
	@mkdir -p $(@D)
	$(CLANG) $(VZ_TEST_FLAGS) -c $< -o $@
$(VZ_TEST_FOLDER)/%.o: tests/vz/%.m
	@mkdir -p $(@D)
	$(CLANG) $(VZ_TEST_FLAGS) -c $< -o $@
$(VZ_TEST_FOLDER)/vz_machine_test.o: CFLAGS_COMMON += -DKELPIE_VZ_DOUBLE
$(VZ_TEST_FOLDER)/vz_machine_test: $(VZ_TEST_OBJECTS)
$(VZ_TEST_FOLDER)/vz_machine_test: LDLIBS_ALL += -Wl,--wrap=__objc_exec_class $(GNUSTEP_LIBRARIES)
-include $(VZ_TEST_OBJECTS:.o=.d)
endif

$(BUILD)/%_test: $(BUILD)/%_test.o $(SUPPORT_OBJECTS) $(GUEST_TEST_OBJECTS) $(BUILD)/libvmm.a \
		$(BUILD)/libenter.a $(BUILD)/libkelpie.a
	$(CC) $(filter %.o,$^) $(BUILD)/libvmm.a $(BUILD)/libenter.a $(BUILD)/libkelpie.a $(LDLIBS_ALL) -lcmocka -o $@

$(BUILD)/src/cli/%_test: $(BUILD)/src/cli/%_test.o $(CLI_OBJECTS) $(SUPPORT_OBJECTS) $(BUILD)/libkelpie.a
	$(CC) $< $(filter-out %/main.o,$(CLI_OBJECTS)) $(SUPPORT_OBJECTS) $(BUILD)/libkelpie.a $(LDLIBS_ALL) \
		-lcmocka -o $@

$(BUILD)/sim/run/%_test: $(BUILD)/sim/run/%_test.o $(SIM_RUN_OBJECTS) $(BUILD)/libkelpie.a
	$(CC) $< $(filter-out %/main.o,$(SIM_RUN_OBJECTS)) $(BUILD)/libkelpie.a $(LDLIBS_ALL) -lcmocka -o $@

$(BUILD)/kelpie-sim: $(SIM_RUN_OBJECTS) $(BUILD)/libkelpie.a
	$(CC) $(SIM_RUN_OBJECTS) $(BUILD)/libkelpie.a $(LDLIBS_ALL) -o $@

# RESULTS=file adds the counts to that file, for whoever sums several runs up. Two programs at once where there are
# two processors: a suite waits for its guest, or for a time limit, or keeps one processor busy.
TEST_SECONDS ?= 600
TEST_JOBS ?= $(if $(filter 1,$(shell nproc)),1,2)
RUN_TESTS = tools/run-tests -t $(TEST_SECONDS) $(if $(RESULTS),-r $(RESULTS))
# $(call RUN_BESIDE,PROGRAMS)
RUN_BESIDE = $(RUN_TESTS) -j $(TEST_JOBS) $(addprefix --alone ,$(filter $(ALONE),$(1))) \
             $(addprefix --waiting ,$(filter $(WAITING),$(1))) $(1)

# What has nothing beside it: how long KVM takes is measured (host_linux_kvm, vcpu), and two vCPUs of one guest need
# two processors to get on within their time (the others).
ALONE_SOURCES := src/host/host_linux_kvm_test.c src/vmm/x86_64/vcpu_test.c src/vmm/x86_64/vcpu_threads_test.c \
                 tests/payload/fork_test.c tests/payload/payload_test.c
# What waits: for the time limits of operations whose host calls failed, two seconds of work in a minute.
WAITING_SOURCES := tests/fault/sweep_test.c tests/fault/owned_sweep_test.c src/vm/tree_fault_test.c
NO_SOURCES := $(filter-out $(UNIT_SOURCES) $(SUITE_SOURCES),$(ALONE_SOURCES) $(WAITING_SOURCES))
$(if $(NO_SOURCES),$(error there is no such test: $(NO_SOURCES)))
ALONE := $(ALONE_SOURCES:%.c=$(BUILD)/%)
WAITING := $(WAITING_SOURCES:%.c=$(BUILD)/%)
# Suites that are scripts around a program.
SCRIPT_SUITES := tests/conformance/libkrun
# The longest first.
ALL_TESTS = $(sort $(SUITE_TESTS)) $(UNIT_TESTS)

.PHONY: setup
setup: ## install what is missing (Debian)
	@tools/setup

.PHONY: check
check: ## everything that continuous integration runs
	@tools/check

.PHONY: demo
demo: setup ## boot a VM, use it, snapshot and restore it, with timings
	@$(MAKE) all
	@tools/demo

.PHONY: build-tests
build-tests: all $(KRUN_FAKES) $(UNIT_TESTS) $(SUITE_TESTS) $(BUILD)/kelpie-sim

# Every source that build-tests compiles, for what another compiler says of it; no test program is linked.
.PHONY: compile
compile: $(LIB_OBJECTS) $(VMM_OBJECTS) $(KRUN_OBJECTS) $(CLI_OBJECTS) $(SIM_RUN_OBJECTS) $(SUPPORT_OBJECTS) $(GUEST_TEST_OBJECTS) \
		$(CONFORMANCE_SOURCES:%.c=$(BUILD)/%.o) $(UNIT_TESTS:%=%.o) $(SUITE_TESTS:%=%.o)

.PHONY: unit
unit: $(UNIT_TESTS) ## run the unit tests
	@$(call RUN_BESIDE,$(UNIT_TESTS))

.PHONY: suites
suites: all $(SUITE_TESTS) $(KRUN_FAKES) ## run the suites in tests/: conformance, the command
	@BUILD=$(BUILD) $(call RUN_BESIDE,$(SUITE_TESTS) $(SCRIPT_SUITES))

# The command and the owner are killed at each of their system calls, or at every KELPIE_STRIDEth.
.PHONY: owned
owned: all $(BUILD)/tests/conformance/conformance_test ## test VMs with owners: conformance on the mock, deaths at each system call
	@BUILD=$(BUILD) KELPIE_STRIDE=$(or $(KELPIE_STRIDE),1) $(RUN_TESTS) -j 2 tests/conformance/owned tests/crash/each-call

LAB_PROGRAMS := $(BUILD)/tests/conformance/conformance_test $(BUILD)/src/host/host_linux_kvm_test \
                $(BUILD)/tests/payload/payload_test
.PHONY: lab
lab: all $(LAB_PROGRAMS) ## run tests/lab/suites: what needs hardware virtualisation, in an emulated machine
	@BUILD=$(BUILD) $(RUN_TESTS) $(LAB_RUN) $(sort $(wildcard tests/lab/suites/*))

# Two at once: a suite keeps one processor of its emulated machine busy at most of the time. A guest within an emulated
# machine on a busy host stands still now and then: a suite that failed has another try, alone.
LAB_RUN := -t 900 -j 2 --again
# What continuous integration has time for: our monitor with both kernels.
LAB_CHECKED := conformance-kvm conformance-kvm-krunfw conformance-kvm-state payloads
.PHONY: lab-check
lab-check: all $(LAB_PROGRAMS)
	@BUILD=$(BUILD) $(RUN_TESTS) $(LAB_RUN) $(LAB_CHECKED:%=tests/lab/suites/%)

.PHONY: test
test: build-tests ## run the unit tests and the suites
	@BUILD=$(BUILD) $(call RUN_BESIDE,$(ALL_TESTS) $(SCRIPT_SUITES))

.PHONY: asan
asan: ## run the tests under the address and undefined-behaviour sanitizers
	@$(MAKE) $(ASAN) asan-run

# QEMU itself is not instrumented, and what these groups reach of the library beyond the backend's start and end they
# reach on the mock as well. What is the QEMU backend's own (snapshots, disks, forks, networks, ends) runs here too.
ASAN_LEFT_OUT := qemu.exec,qemu.stream,qemu.files,qemu.heavy
.PHONY: asan-run
asan-run: build-tests
	@ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
		KELPIE_CONFORMANCE_LEAVE_OUT=$(ASAN_LEFT_OUT) \
		$(call RUN_BESIDE,$(ALL_TESTS))

.PHONY: tsan
tsan: ## run the tests of the rooms that have threads under the thread sanitizer
	@$(MAKE) $(TSAN) tsan-run

# The test left out puts frames into a relay whose thread runs: that is its own race.
TSAN_LEFT_OUT := $(BUILD)/src/vm/relay_frames_test
TSAN_TESTS := $(filter-out $(TSAN_LEFT_OUT),$(filter $(THREADED:%=$(BUILD)/%/%),$(ALL_TESTS)))
.PHONY: tsan-run
tsan-run: $(TSAN_TESTS)
	@TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 KELPIE_CONFORMANCE_BACKENDS=mock \
		$(call RUN_BESIDE,$(TSAN_TESTS))

.PHONY: mutants
mutants: ## plant the bugs of tests/mutants one by one, and expect the tests to find each; F='^A1-' takes some of them
	@tools/mutants $(if $(F),--filter '$(F)') $(if $(JOBS),--jobs $(JOBS))

# The rooms that the simulator drives, and what takes their branches: the unit tests beside them, with a real QEMU where
# there is one, and the suites that run on the mock. tools/cover-floors.txt keeps what was reached.
COVER_ROOMS := src/vm src/snapshot src/protocol src/backend
COVER_TESTS := $(filter $(COVER_ROOMS:%=$(BUILD)/%/%) $(BUILD)/sim/peer/%,$(UNIT_TESTS)) \
               $(BUILD)/tests/conformance/conformance_test $(BUILD)/tests/fault/sweep_test $(BUILD)/tests/fault/owned_sweep_test \
               $(BUILD)/tests/crash/owner_test
.PHONY: cover
cover: ## run the tests of COVER_ROOMS and print which branches they take; a room below its floor fails
	@find $(BUILD)/cover -name '*.gcda' -delete 2>/dev/null || true
	@$(MAKE) $(COVERAGE) cover-run cover-sim
	@tools/cover $(BUILD)/cover

# Two at once: most of them wait.
.PHONY: cover-run
cover-run: $(COVER_TESTS)
	@BUILD=$(BUILD) KELPIE_CONFORMANCE_BACKENDS=mock $(RUN_TESTS) -j 2 $(COVER_TESTS) tests/conformance/owned

# The simulator's part of it: other seeds than those of the check would do as well.
COVER_SEEDS ?= 1..2000
.PHONY: cover-sim
cover-sim: cover-run $(BUILD)/kelpie-sim
	@$(BUILD)/kelpie-sim --seeds $(COVER_SEEDS) --jobs $(SIM_JOBS) > $(BUILD)/sim.txt || \
		{ cat $(BUILD)/sim.txt; exit 1; }
	@tail -n 3 $(BUILD)/sim.txt

# ---- the simulator -------------------------------------------------------------------------------

SEEDS ?= 1..1000
SIM_JOBS = $(or $(JOBS),$(shell nproc))

.PHONY: sim
sim: $(BUILD)/kelpie-sim ## run the simulator: SEED=n one run, SEEDS=a..b all of them (1..1000), JOBS=j at once
	@$(BUILD)/kelpie-sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) --jobs $(SIM_JOBS) $(SIM_OPTIONS)

# Each fault fires in so many runs, more of them hold, and one seed is always one run.
SIM_FAULT_SEEDS ?= 1..1000
SIM_CHECKED_SEEDS ?= 1001..10000
SIM_REPEATED_SEED ?= 17
# Other seeds than those: what a process that was killed had is lost, as it would be, and no leak.
SIM_ASAN_SEEDS ?= 20001..20500
.PHONY: sim-asan
sim-asan: ## run the simulator under the address and undefined-behaviour sanitizers
	@$(MAKE) $(ASAN) $(BUILD)/asan/kelpie-sim
	@ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 $(BUILD)/asan/kelpie-sim --seeds $(SIM_ASAN_SEEDS) \
		--jobs $(SIM_JOBS) > $(BUILD)/asan/sim.txt || { cat $(BUILD)/asan/sim.txt; exit 1; }
	@tail -n 3 $(BUILD)/asan/sim.txt

.PHONY: sim-check
sim-check: $(BUILD)/kelpie-sim ## run the simulator as continuous integration does
	@tools/sim-check $(if $(RESULTS),-r $(RESULTS)) $(BUILD)/kelpie-sim $(SIM_FAULT_SEEDS) \
		$(SIM_CHECKED_SEEDS) $(SIM_REPEATED_SEED) $(SIM_JOBS)

# ---- fuzzing -------------------------------------------------------------------------------------

FUZZ_SECONDS ?= 60

# This one has the simulator's runs too.
$(BUILD)/fuzz/sim_fuzz.o: CFLAGS_COMMON += -I.
$(BUILD)/fuzz/sim_fuzz: $(filter-out %/main.o,$(SIM_RUN_OBJECTS))

$(BUILD)/fuzz/%_fuzz: $(BUILD)/fuzz/%_fuzz.o $(BUILD)/libvmm.a $(BUILD)/libkelpie.a
	$(CC) -fsanitize=fuzzer $(filter %.o,$^) $(BUILD)/libvmm.a $(BUILD)/libkelpie.a $(LDLIBS_ALL) -o $@

.PHONY: fuzzers
fuzzers: $(FUZZERS)

.PHONY: fuzz
fuzz: ## fuzz the decoder T (such as T=protocol; without T: each) for FUZZ_SECONDS each, and keep what it found
	@$(MAKE) $(FUZZING) fuzzers
	@tools/fuzz --keep -t $(FUZZ_SECONDS) $(if $(T),$(BUILD)/fuzzing/fuzz/$(T)_fuzz,$(FUZZ_SOURCES:%.c=$(BUILD)/fuzzing/%))

.PHONY: fuzz-run
fuzz-run:
	@$(MAKE) $(FUZZING) fuzzers
	@tools/fuzz -t $(FUZZ_SECONDS) $(FUZZ_SOURCES:%.c=$(BUILD)/fuzzing/%)

# ---- measuring -----------------------------------------------------------------------------------

$(BUILD)/bench/bench: $(BENCH_OBJECTS) $(BUILD)/libkelpie.a
	$(CC) $(BENCH_OBJECTS) $(BUILD)/libkelpie.a $(LDLIBS_ALL) -o $@

# What a restore is measured against: static, like the monitor.
$(BUILD)/bench/floor: bench/floor/floor.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -O2 $(WARNINGS) -static $< -o $@

.PHONY: bench
bench: all $(if $(BENCH_SOURCES),$(BUILD)/bench/bench $(BUILD)/bench/floor) ## measure; print a table and write build/bench.json
	@$(if $(BENCH_SOURCES),$(BUILD)/bench/bench,echo 'there is nothing in bench/ yet'; exit 1)

.PHONY: lab-bench
lab-bench: all $(BUILD)/bench/bench ## measure our monitor beside QEMU (and Firecracker, libkrun), with KVM in the lab; print a table and write build/lab-bench.json
	@BUILD=$(BUILD) tools/lab-bench $(RUNS)

# The vz backend's Objective-C: on another system than macOS, its syntax and types, against declarations of ours (tests/vz/).
VZ_FLAGS := -x objective-c -fobjc-runtime=macosx-14 -fblocks -fobjc-arc -std=gnu17 -D_GNU_SOURCE -Iinclude -Isrc \
            -Wall -Wextra -Werror -Wshadow
.PHONY: vz-syntax
vz-syntax: ## check the syntax of what runs on macOS only
	@$(foreach processor,-D__arm64__ -U__arm64__,$(CLANG) -fsyntax-only $(VZ_FLAGS) src/backend/vz/vz_machine.m \
		$(if $(filter Darwin,$(shell uname)),,-D__APPLE__ $(processor) -Itests/vz) &&) true

# ---- how the code looks --------------------------------------------------------------------------

FORMATTED = $(shell find include src guest sim tests fuzz bench examples -name '*.[ch]' 2>/dev/null | sort)
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-14 clang-format))

.PHONY: lint
lint: ## the checks of tools/ that need no build, and the format
	@failed=0; for check in tools/check-files tools/check-includes tools/check-sizes \
			tools/check-assertions '$(MAKE) format-check'; do \
		$$check || failed=1; \
	done; exit $$failed

.PHONY: lint-objects
lint-objects: all $(BUILD)/man/made ## the checks of tools/ that look at what was built
	@failed=0; tools/check-calls $(BUILD) || failed=1; \
		tools/check-symbols $(BUILD)/libkelpie.so || failed=1; \
		tools/check-docs $(BUILD)/kelpie $(BUILD)/man || failed=1; exit $$failed

.PHONY: format
format: ## format the sources
	@$(CLANG_FORMAT) -i $(FORMATTED)

# Versions of clang-format differ in details: only the one that the settings were written for decides.
.PHONY: format-check
format-check: ## fail when a source is not formatted
	@if $(CLANG_FORMAT) --version | grep -q 'version 14\.'; then \
		$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED); \
	else \
		echo 'format-check: skipped: there is no clang-format 14 here'; \
	fi

.PHONY: tidy
tidy: ## run clang-tidy over the library, the command and the guest
	@clang-tidy --quiet $(LIB_SOURCES) $(CLI_SOURCES) $(filter guest/%,$(GUEST_SOURCES)) -- \
		$(filter-out -MMD -MP -Werror,$(CFLAGS_COMMON)) $(shell pkg-config --cflags $(PACKAGES))

# ---- manual pages --------------------------------------------------------------------------------

MAN_TOOLS := tools/make-man tools/headerdoc.py
$(BUILD)/man/made: $(BUILD)/kelpie $(MAN_TOOLS) $(wildcard include/*.h)
	@rm -rf $(BUILD)/man
	tools/make-man $(BUILD)/kelpie $(BUILD)/man $(sort $(wildcard include/*.h))
	@touch $@

.PHONY: man
man: $(BUILD)/man/made ## make the manual pages, in build/man: MANPATH=$PWD/build/man man kelpie

# ---- installing ----------------------------------------------------------------------------------

# Always made anew: the paths may be others than the last time.
.PHONY: $(BUILD)/kelpie.pc
$(BUILD)/kelpie.pc: kelpie.pc.in
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@PACKAGES@|$(PACKAGES)|' kelpie.pc.in > $@

.PHONY: install
install: all $(BUILD)/kelpie.pc $(BUILD)/man/made ## install to $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 755 $(BUILD)/kelpie $(DESTDIR)$(PREFIX)/bin/kelpie
	install -m 644 include/*.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 $(BUILD)/libkelpie.a $(DESTDIR)$(LIBDIR)/libkelpie.a
	install -m 755 $(BUILD)/libkelpie.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkelpie.so.$(VERSION)
	ln -sf libkelpie.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libkelpie.so.$(SOVERSION)
	ln -sf libkelpie.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkelpie.so
	install -m 644 $(BUILD)/kelpie.pc $(DESTDIR)$(LIBDIR)/pkgconfig/kelpie.pc
	install -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man3
	install -m 644 $(BUILD)/man/man1/* $(DESTDIR)$(MANDIR)/man1/
	install -m 644 $(BUILD)/man/man3/* $(DESTDIR)$(MANDIR)/man3/
	install -d $(DESTDIR)$(BASH_COMPLETIONS) $(DESTDIR)$(ZSH_COMPLETIONS) $(DESTDIR)$(FISH_COMPLETIONS)
	$(BUILD)/kelpie completion bash > $(DESTDIR)$(BASH_COMPLETIONS)/kelpie
	$(BUILD)/kelpie completion zsh > $(DESTDIR)$(ZSH_COMPLETIONS)/_kelpie
	$(BUILD)/kelpie completion fish > $(DESTDIR)$(FISH_COMPLETIONS)/kelpie.fish

.PHONY: uninstall
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/kelpie \
		$(patsubst include/%,$(DESTDIR)$(PREFIX)/include/%,$(wildcard include/*.h)) \
		$(DESTDIR)$(LIBDIR)/libkelpie.a $(DESTDIR)$(LIBDIR)/libkelpie.so \
		$(DESTDIR)$(LIBDIR)/libkelpie.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkelpie.so.$(VERSION) \
		$(DESTDIR)$(LIBDIR)/pkgconfig/kelpie.pc
	rm -f $(DESTDIR)$(MANDIR)/man[13]/kelpie.1 $(DESTDIR)$(MANDIR)/man[13]/kelpie[-_]*.[13] \
		$(DESTDIR)$(BASH_COMPLETIONS)/kelpie $(DESTDIR)$(ZSH_COMPLETIONS)/_kelpie \
		$(DESTDIR)$(FISH_COMPLETIONS)/kelpie.fish

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(BUILD)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

# What the objects depend on; not those of another build below this one.
-include $(shell find $(wildcard $(BUILD)/src $(BUILD)/sim $(BUILD)/guest $(BUILD)/tests $(BUILD)/fuzz \
           $(BUILD)/bench) /dev/null -name '*.d')
.SECONDARY:
