# vaecf: builds the programs bin/vaecf-*. `make help` lists what else there is.
#
# jobs/find.sh looks for the libraries and tells what it found; build/found.mk keeps the answer. Set on the command
# line what should be otherwise:
#   make ARCH=x86-64-v3          instruction set (native: this machine's)
#   make GEMM=cblas CBLAS_LIBS="-L/opt/x/lib -lx"      matrix products by that CBLAS instead of oneDNN
#   make MPICC=/opt/mpi/bin/mpicc HDF5_ROOT=/opt/hdf5  other places
#   make LZMA=no, BZ2=no         without reading .xz, .bz2
#   make CUDA=no, NCCL=no, CUSPARSE=no        without them;  CUDA_HOME=/opt/cuda  another nvcc;  CUDA_ARCH="sm_80 sm_90"  other GPUs
#   make SANITIZE=address,undefined BUILD=build/asan   a checked build of its own
#   make V=1                     shows the commands

.DEFAULT_GOAL := all
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SECONDARY:

VERSION := 0.1.0
MPICC ?= mpicc
ARCH ?= native
BUILD ?= build
BIN ?= $(if $(SANITIZE),$(BUILD)/bin,bin)
PREFIX ?= /usr/local
INPUT ?= preprocess/debian-build-depends.csv.gz
SECONDS ?= 20
PYTHON ?= python3
# Sanitizers and the CUDA runtime do not go together: the CUDA code is checked on the host (tests/cuda_host).
ifdef SANITIZE
CUDA := no
endif
FUZZ_SECONDS ?= 20

ifeq ($(MAKELEVEL)$(filter -j% --jobserver%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

PROGRAMS := preprocess synthesize train evaluate recommend sweep collect export
COMMANDS := $(PROGRAMS:%=$(BIN)/vaecf-%)

# Running MPI programs as root is the container's habit; Open MPI wants to be told.
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: all help found setup demo install clean lint format tests test test-bare test-suite test-asan test-valgrind test-crash test-starts test-faults test-openpbs \
    fuzz cuda-check gpu gpu-check gpu-pack gpu-rehearse bench bench-gpu bench-parity bench-input bench-accuracy bench-recommend bench-preprocess bench-preprocess-scale \
    bench-json
all: $(COMMANDS)

help:
	@echo "make                 build the programs bin/vaecf-*"
	@echo "make demo            installs what is missing, trains on the data set that comes along, recommends;"
	@echo "                     INPUT=ratings.csv: on your file"
	@echo "make test            installs what is missing, builds, runs all tests, plain and with ASan and UBSan"
	@echo "make test-bare       both commands on a bare Debian that is made for it and removed; as root; SUITE=trixie: Debian 13"
	@echo "make test-suite      the plain tests alone;  make test-suite TESTS='config cli' some of them"
	@echo "make test-asan       the tests with ASan and UBSan alone"
	@echo "make test-valgrind   a small run under valgrind"
	@echo "make test-starts     two starts at once on one directory, ROUNDS (100) times"
	@echo "make fuzz            fuzzes the readers with clang, each for SECONDS (20): make fuzz SECONDS=600"
	@echo "make bench           training speed against the products alone and PyTorch (PYTHON=), into results/bench/"
	@echo "make bench-parity    accuracy on MovieLens-1M (INPUT=ratings.csv) beside plain PyTorch (PYTHON=), into results/"
	@echo "make test-crash      kills training KILLS (200) times by SIGKILL and by SIGTERM, resumes, compares the bytes"
	@echo "make test-openpbs    the job scripts on a real OpenPBS: a site's, or one of two hosts in namespaces (root; \$$PBS_EXEC, /opt/pbs)"
	@echo "make test-faults     fails the N-th allocation, read, write, ... of every program, for every N, into results/faults.md (an hour)"
	@echo "make bench-accuracy  every model on DATA='ml-100k ml-1m debian gowalla', into results/accuracy.md (hours)"
	@echo "make bench-input     cost of the sparse first layer by non-zeros and by catalogue, into results/bench/"
	@echo "make bench-recommend speed of recommendations beside PyTorch's (PYTHON=python3), into results/bench/"
	@echo "make cuda-check      compiles the CUDA code for all GPUs that are supported; needs nvcc, but no GPU"
	@echo "make bench-preprocess  against pandas, Polars and DuckDB (PYTHON=venv/bin/python); bench-preprocess-scale"
	@echo "make bench-json      reading JSON lines beside Python's json and orjson (PYTHON=python3), into results/bench/"
	@echo "make gpu             what takes a GPU, in STAGES (first, later, all, names; tests/gpu/run.sh), into results/gpu/"
	@echo "make gpu-check       those of them that check;  make bench-gpu  those that measure, beside PyTorch (PYTHON=)"
	@echo "make gpu-pack        packs all that a machine with a GPU, but without MPI and HDF5, needs for them (DATA=ratings.csv)"
	@echo "make gpu-rehearse    runs such a pack in a bare Debian, without a GPU, and kills it; as root"
	@echo "make lint            clang-format and shellcheck;  make format  formats the sources"
	@echo "make install         into PREFIX (/usr/local), under DESTDIR"
	@echo "make found           what the build found on this machine"
	@echo "make clean           removes build/ and bin/"

# ---- what there is on this machine ----

ifneq ($(filter-out help clean setup lint format demo test test-bare,$(or $(MAKECMDGOALS),all)),)
# handed over by hand: before GNU make 4.4 $(shell) does not see variables of the command line
FIND_VARIABLES := MPICC GEMM CUDA CUDA_HOME NCCL CUSPARSE LZMA BZ2 $(foreach n,NCCL HDF5 YAML ZLIB ZSTD LZMA BZ2 ONEDNN CBLAS MKL LAPACK CMOCKA,$n_CFLAGS $n_LIBS $n_ROOT)
found := $(shell mkdir -p $(BUILD) && \
    $(foreach v,$(FIND_VARIABLES),$(if $($v),$v='$($v)')) jobs/find.sh $(BUILD)/found.mk)
include $(BUILD)/found.mk
endif

found:
	@cat $(BUILD)/found.txt

# Everything waits for this: a missing library is told by name, not by the compiler.
$(BUILD)/complete: $(BUILD)/found.mk
	@if [ -n "$(strip $(FOUND_MISSING))" ]; then \
	    echo "error: not all that vaecf needs is here:" >&2; grep '✗' $(BUILD)/found.txt >&2; \
	    echo "Load or install it and run make again; on Debian and Ubuntu \`make setup\` does." >&2; exit 1; fi
	@touch $@

# ---- compiling ----

# A message that is cut at its limit is meant to be.
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Werror -Wno-format-truncation \
    $(if $(findstring clang,$(MPICC) $(OMPI_CC) $(MPICH_CC)),-Wno-unknown-warning-option -Wno-pass-failed)
# No -ffast-math: the same seed is to give the same bits. These two change no result.
OPTIMISE := -O3 $(if $(ARCH),-march=$(ARCH)) -fno-math-errno -fno-trapping-math
ifdef SANITIZE
OPTIMISE := -O1 -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all
endif
# += leaves what the user gives in CFLAGS last
BASE_CFLAGS := -std=gnu11 -g $(OPTIMISE) $(FOUND_OPENMP) $(WARNINGS) -Isrc -Ipreprocess -I$(BUILD) -MMD -MP -pthread \
    $(FOUND_MPI_CFLAGS) $(FOUND_HDF5_CFLAGS) $(FOUND_YAML_CFLAGS) $(FOUND_ZLIB_CFLAGS) $(FOUND_ZSTD_CFLAGS) \
    $(FOUND_LZMA_CFLAGS) $(FOUND_BZ2_CFLAGS) $(FOUND_GEMM_CFLAGS) $(FOUND_LAPACK_CFLAGS) $(FOUND_CUDA_CFLAGS) $(FOUND_NCCL_CFLAGS)
LIBS := $(FOUND_NCCL_LIBS) $(FOUND_CUDA_LIBS) $(FOUND_HDF5_LIBS) $(FOUND_YAML_LIBS) $(FOUND_ZLIB_LIBS) $(FOUND_ZSTD_LIBS) \
    $(FOUND_LZMA_LIBS) $(FOUND_BZ2_LIBS) $(FOUND_GEMM_LIBS) $(FOUND_LAPACK_LIBS) -lm
say = $(if $(V),,@echo "  $1";)
COMPILE = $(MPICC) $(BASE_CFLAGS) $(CPPFLAGS) $(CFLAGS)
LINK = $(MPICC) -pthread $(FOUND_OPENMP) $(if $(SANITIZE),-fsanitize=$(SANITIZE)) $(CFLAGS) $(LDFLAGS)

# One of the two GEMM files is compiled; mains stay outside of the library.
MAINS := preprocess/preprocess.c preprocess/synthesize.c $(PROGRAMS:%=src/%.c)
SOURCES := $(filter-out $(MAINS) src/gemm_onednn.c src/gemm_cblas.c,$(wildcard src/*.c preprocess/*.c)) \
    $(wildcard src/gemm_$(FOUND_GEMM).c) $(if $(FOUND_NVCC),$(wildcard cuda/*.c))
KERNELS := $(wildcard cuda/*.cu)
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o) $(if $(FOUND_NVCC),$(KERNELS:%.cu=$(BUILD)/%.o))

# Machine code for each of CUDA_ARCH, and PTX of the last, which later GPUs compile for themselves.
CUDA_ARCH ?= $(FOUND_CUDA_ARCH)
NVCC = $(FOUND_NVCC) -std=c++17 -O3 -lineinfo -Werror all-warnings -Wno-deprecated-gpu-targets -Xcompiler -Wall,-Wextra,-Werror \
    $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$(a:sm_%=%),code=$a) \
    $(foreach a,$(lastword $(CUDA_ARCH)),-gencode arch=compute_$(a:sm_%=%),code=compute_$(a:sm_%=%))
$(BUILD)/cuda/%.o: cuda/%.cu cuda/kernels.h $(wildcard cuda/*.cuh) cuda/trace.h src/philox.h src/order.h $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,NVCC $< ($(CUDA_ARCH)))$(NVCC) -c -o $@ $<
$(BUILD)/src/program.o: BASE_CFLAGS += $(if $(FOUND_NVCC),-DVAECF_CUDA_ARCH='"$(CUDA_ARCH)"')

# The kernels for every generation that is supported and nvcc compiles for (CUDA 13 not for Volta); nothing is run.
EVERY_ARCH = $(FOUND_CUDA_ARCH:sm_90=sm_90a)
cuda-check:
ifeq ($(FOUND_NVCC),)
	@echo "cuda-check: there is no nvcc: the kernels are not compiled for the GPU"
else
	@$(MAKE) --no-print-directory BUILD=build/cuda_check CUDA_ARCH="$(EVERY_ARCH)" \
	    $(KERNELS:%.cu=build/cuda_check/%.o) $(patsubst %.c,build/cuda_check/%.o,$(wildcard cuda/*.c))
	@echo "cuda-check: the CUDA code compiles without warnings for $(EVERY_ARCH)"
endif

# Other options, another library: everything is compiled anew.
$(BUILD)/flags: always
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(COMPILE) $(LINK) $(LIBS) $(NVCC))' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/%.o: %.c $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CC $<)$(COMPILE) -c -o $@ $<

$(BUILD)/libvaecf.a: $(OBJECTS)
	$(call say,AR $@)rm -f $@ && $(AR) rcs $@ $^

$(BIN)/vaecf-preprocess: $(BUILD)/preprocess/preprocess.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-synthesize: $(BUILD)/preprocess/synthesize.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-train: $(BUILD)/src/train.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-evaluate: $(BUILD)/src/evaluate.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-recommend: $(BUILD)/src/recommend.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-sweep: $(BUILD)/src/sweep.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-collect: $(BUILD)/src/collect.o $(BUILD)/libvaecf.a
$(BIN)/vaecf-export: $(BUILD)/src/export.o $(BUILD)/libvaecf.a
$(COMMANDS):
	@mkdir -p $(@D)
	$(call say,LD $@)$(LINK) -o $@ $^ $(LIBS)

# The version and the commit, for --version: a header that only changes when they do.
$(BUILD)/src/program.o: $(BUILD)/version.h
$(BUILD)/version.h: always
	@mkdir -p $(@D)
	@{ echo '#define VAECF_VERSION "$(VERSION)"'; echo "#define VAECF_COMMIT \"$$( \
	    git -c safe.directory='*' describe --always --dirty --abbrev=10 --match= 2>/dev/null || echo unknown)\""; \
	} > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@
always:
.PHONY: always

# ---- tests ----

C_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/*_test.c))
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*_fuzz.c))
tests: $(C_TESTS) $(FUZZERS:%_fuzz=$(BUILD)/tests/fuzz/%_replay)

$(BUILD)/tests/%_test: $(BUILD)/tests/%_test.o $(BUILD)/libvaecf.a
	$(call say,LD $@)$(LINK) -o $@ $^ $(FOUND_CMOCKA_LIBS) $(LIBS)
$(BUILD)/tests/%.o: BASE_CFLAGS += $(FOUND_CMOCKA_CFLAGS)

# Gradients are tested in double precision: the model's files compiled with it, everything else as it is.
DOUBLE := $(patsubst %.c,$(BUILD)/double/%.o,tests/gradient_test.c tests/gemm_double.c \
    $(wildcard src/model.c src/backend_cpu.c src/comm.c src/grid.c src/error.c))
$(BUILD)/double/%.o: %.c $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CC $< (double))$(COMPILE) $(FOUND_CMOCKA_CFLAGS) -DVAECF_DOUBLE -c -o $@ $<
$(BUILD)/tests/gradient_test: $(DOUBLE) $(BUILD)/libvaecf.a
	@mkdir -p $(@D)
	$(call say,LD $@)$(LINK) -o $@ $^ $(FOUND_CMOCKA_LIBS) $(LIBS)

# The CUDA backend on the host: tests/cuda_host stands in for CUDA, cuBLASLt and NCCL, and the objects here for those of
# the same name in the library.
HOST := $(BUILD)/cuda_host
HOST_C := $(wildcard cuda/*.c) src/backend.c src/program.c src/span.c
HOST_STANDINS := $(patsubst tests/cuda_host/%.cc,$(HOST)/%.o,$(wildcard tests/cuda_host/*.cc))
HOST_OBJECTS := $(HOST_C:%.c=$(HOST)/%.o) $(HOST_STANDINS)
HOST_KERNELS := $(KERNELS:cuda/%.cu=$(HOST)/cuda/%.o)
HOST_SMALL := $(KERNELS:cuda/%.cu=$(HOST)/cuda/small_%.o)
# The same with pieces of the sizes that they have on a GPU.
HOST_REAL := $(KERNELS:cuda/%.cu=$(HOST)/real/cuda/%.o) $(HOST_C:%.c=$(HOST)/real/%.o)
HOST_PIECES := -DVAECF_SMALL_PIECES
$(HOST)/real/%: HOST_PIECES :=
HOST_FLAGS = -Itests/cuda_host $(HOST_PIECES) -DVAECF_CUDA -DVAECF_NCCL -DVAECF_CUSPARSE -DVAECF_CUDA_ARCH='"host emulation"'
HOST_CXX = $(FOUND_CXX) -std=c++17 -g $(if $(SANITIZE),$(OPTIMISE),-O2) -Wall -Wextra -Werror -Wno-unknown-pragmas \
    -MMD -MP $(HOST_FLAGS) -Isrc $(FOUND_MPI_CFLAGS)
$(HOST)/%.o: %.c $(BUILD)/flags $(BUILD)/version.h | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CC $< (host emulation))$(COMPILE) -UVAECF_CUDA -UVAECF_NCCL -UVAECF_CUSPARSE -UVAECF_NVTX $(HOST_FLAGS) -c -o $@ $<
# A kernel's static variables are its shared memory: tests/cuda_host/runtime.cc finds them in a section.
OBJCOPY ?= objcopy
SHARED_FLAGS := alloc,load,contents,data
define host_kernel
$(HOST_CXX) $(1) -x c++ -c -o $@ $<
	@$(OBJCOPY) --set-section-flags .bss=$(SHARED_FLAGS) --rename-section .bss=cuda_shared,$(SHARED_FLAGS) $@
endef
$(HOST_KERNELS): $(HOST)/cuda/%.o: cuda/%.cu $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $< (host emulation))$(call host_kernel)
$(HOST)/real/cuda/%.o: cuda/%.cu $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $< (host emulation, real pieces))$(call host_kernel)
$(HOST)/real/%.o: %.c $(BUILD)/flags $(BUILD)/version.h | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CC $< (host emulation, real pieces))$(COMPILE) -UVAECF_CUDA -UVAECF_NCCL -UVAECF_CUSPARSE -UVAECF_NVTX $(HOST_FLAGS) -c -o $@ $<
# Whole runs take smaller blocks, which are faster there.
$(HOST_SMALL): $(HOST)/cuda/small_%.o: cuda/%.cu $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $< (host emulation, small blocks))$(call host_kernel,-DVAECF_ROW_THREADS=32)
$(HOST)/%.o: tests/cuda_host/%.cc $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $<)$(HOST_CXX) -c -o $@ $<
HOST_WHOLE := $(HOST_OBJECTS) $(HOST_SMALL) $(BUILD)/libvaecf.a
HOST_TESTS := $(addprefix $(HOST)/,cuda_backend_test cuda_backend_real_test cuda_host_refusals_test cuda_host_libraries_test sums_test bench_gpu)
HOST_BIN := $(patsubst %,$(HOST)/bin/vaecf-%,train evaluate recommend)
$(HOST)/bin/vaecf-%: $(BUILD)/src/%.o $(HOST_WHOLE)
	@mkdir -p $(@D)
	$(call say,LD $@)$(LINK) -o $@ $^ $(filter-out $(FOUND_CUDA_LIBS) $(FOUND_NCCL_LIBS),$(LIBS)) -lstdc++ -lm
$(HOST)/cuda_backend_test: $(HOST)/tests/cuda_backend_test.o $(HOST_OBJECTS) $(HOST_KERNELS) $(BUILD)/libvaecf.a
$(HOST)/cuda_backend_real_test: $(BUILD)/tests/cuda_backend_test.o $(HOST_REAL) $(HOST_STANDINS) $(BUILD)/libvaecf.a
$(HOST)/cuda_host_refusals_test: $(HOST)/tests/cuda_host_refusals_test.o $(HOST_WHOLE)
$(HOST)/cuda_host_libraries_test: $(HOST)/cuda_host_libraries_test.o $(HOST_WHOLE)
$(HOST)/sums_test: $(HOST)/tests/cuda_host/sums_test.o $(filter-out $(HOST)/nccl.o,$(HOST_WHOLE)) # with an NCCL of its own
$(HOST)/bench_gpu: $(HOST)/tests/bench/gpu.o $(HOST_WHOLE)
$(HOST_TESTS):
	$(call say,LD $@)$(LINK) -o $@ $^ $(FOUND_CMOCKA_LIBS) $(filter-out $(FOUND_CUDA_LIBS) $(FOUND_NCCL_LIBS),$(LIBS)) \
	    -lstdc++ -lm
$(HOST)/tests/%.o: tests/%.cc $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $<)$(call host_kernel,-O1 $(FOUND_CMOCKA_CFLAGS))
$(HOST)/cuda_host_libraries_test.o: tests/cuda_host_libraries_test.cc $(BUILD)/flags | $(BUILD)/complete
	@mkdir -p $(@D)
	$(call say,CXX $<)$(HOST_CXX) $(FOUND_CMOCKA_CFLAGS) -c -o $@ $<
ifneq ($(FOUND_CXX),)
tests: $(HOST_TESTS) $(HOST_BIN)
endif

# What takes a GPU: the results come into results/gpu, also when a stage failed.
STAGES ?= first
gpu-check: STAGES = versions functions losses memcheck racecheck precisions ranks suite
bench-gpu: STAGES = versions kernels sweep pytorch speeds tuning latency
gpu gpu-check bench-gpu: all tests $(if $(FOUND_NVCC),$(BUILD)/tests/bench/gpu)
	@OUT=$(BUILD)/gpu-out; BIN=$(BIN) BUILD=$(BUILD) PYTHON=$(PYTHON) DATA='$(DATA)' STAGES='$(STAGES)' OUT=$$OUT \
	    WORK=$(BUILD)/gpu-work tests/gpu/run.sh; status=$$?; \
	    if [ -s $$OUT/stages.csv ]; then tests/gpu/merge.sh $$OUT; fi; exit $$status

# A build of its own: for one GPU, any processor of the last ten years, and the smaller of the two libraries for products.
given = $(if $(filter command environment,$(firstword $(origin $1))),$($1),$2)
PACK := BUILD=build/gpu BIN=build/gpu/bin GEMM=cblas
PACK_EMULATION := $(addprefix build/gpu/cuda_host/,cuda_backend_test bench_gpu bin/vaecf-train bin/vaecf-evaluate bin/vaecf-recommend)
gpu-pack:
	@[ -n "$(FOUND_NVCC)" ] || { echo "error: make gpu-pack takes nvcc with cuBLASLt (see make found)" >&2; exit 69; }
	@$(MAKE) --no-print-directory $(PACK) ARCH='$(call given,ARCH,x86-64-v3)' CUDA_ARCH='$(call given,CUDA_ARCH,sm_90)' all \
	    build/gpu/tests/cuda_backend_test build/gpu/tests/bench/gpu
	@$(PACK) DATA='$(DATA)' tests/gpu/pack.sh
gpu-rehearse:
	@$(MAKE) --no-print-directory $(PACK) ARCH='$(call given,ARCH,x86-64-v3)' CUDA_ARCH='$(call given,CUDA_ARCH,sm_90)' all $(PACK_EMULATION)
	@$(PACK) tests/gpu/rehearse.sh

# TESTS='config cli' runs some; the default is all.
test-suite: all tests
	@BIN=$(BIN) BUILD=$(BUILD) tests/run.sh $(TESTS)

ASAN := SANITIZE=address,undefined BUILD=build/asan BIN=build/asan/bin
test-asan:
	@$(MAKE) --no-print-directory $(ASAN) test-suite

test:
	@jobs/setup.sh tests
	@begin=$$(date +%s) && $(MAKE) --no-print-directory all tests && between=$$(date +%s) && \
	    $(MAKE) --no-print-directory $(ASAN) all tests && \
	    tests/run.sh --both "building $$((between - begin)) s" "building with ASan and UBSan $$(($$(date +%s) - between)) s"

# The README's two commands on a bare Debian; SUITE=trixie: Debian 13
SUITE ?= bookworm
test-bare:
	@tests/bare.sh $(SUITE)

# half of them on 1 rank, half on 2
KILLS ?= 200
test-crash: all
	@BIN=$(BIN) BUILD=$(BUILD) KILLS=$(KILLS) TEST_TIMEOUT=86400 tests/run.sh crash
	@cat $(BUILD)/logs/crash.sh.log

ROUNDS ?= 100
test-openpbs: all
	tests/cluster/openpbs.sh check
test-starts: all
	@BIN=$(BIN) BUILD=$(BUILD) ROUNDS=$(ROUNDS) TEST_TIMEOUT=86400 tests/run.sh starts
	@cat $(BUILD)/logs/starts.sh.log

# The library that lets calls fail; made where it can be.
FAULTS := $(if $(findstring x86_64-linux,$(shell $(CC) -dumpmachine)),$(BUILD)/tests/faults/faults.so)
tests: $(FAULTS)
$(BUILD)/tests/faults/faults.so: tests/faults/faults.c
	@mkdir -p $(@D)
	$(call say,CC $@)$(CC) -std=gnu11 -g -O2 $(WARNINGS) -fPIC -shared -o $@ $< -ldl
test-faults: all $(FAULTS)
	@BIN=$(BIN) BUILD=$(BUILD) TABLE=results/faults.md tests/faults/loop.sh

# for any processor: valgrind does not know the newest instructions
test-valgrind:
	@$(MAKE) --no-print-directory BUILD=build/valgrind BIN=build/valgrind/bin ARCH= CUDA=no all
	@BIN=build/valgrind/bin tests/valgrind.sh

# Each tests/fuzz/NAME_fuzz.c is a libFuzzer target; tests/fuzz/corpus/NAME its seeds. Without clang they replay files.
# The limit is above the windows that compressed files may ask for.
fuzz: $(BIN)/vaecf-preprocess
	@$(MAKE) --no-print-directory BUILD=build/fuzz SANITIZE=address,undefined,fuzzer-no-link \
	    OMPI_CC=clang MPICH_CC=clang $(FUZZERS:%=build/fuzz/%)
	@for f in $(FUZZERS:_fuzz=); do echo "  fuzzing $$f for $(SECONDS) s"; mkdir -p build/fuzz/corpus/$$f; \
	    BIN=$(BIN) OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 build/fuzz/$${f}_fuzz -max_total_time=$(SECONDS) -timeout=100 -malloc_limit_mb=5000 -print_final_stats=1 \
	        -artifact_prefix=build/fuzz/ build/fuzz/corpus/$$f tests/fuzz/corpus/$$f \
	        > build/fuzz/$$f.log 2>&1 || { tail -n 40 build/fuzz/$$f.log; exit 1; }; \
	    sed -n 's/^stat::number_of_executed_units: */    no finding; inputs: /p' build/fuzz/$$f.log; done
FUZZ_COMMON := $(BUILD)/tests/fuzz/edit.o $(BUILD)/libvaecf.a
$(BUILD)/%_fuzz: $(BUILD)/tests/fuzz/%_fuzz.o $(FUZZ_COMMON)
	$(call say,LD $@)$(LINK) -fsanitize=fuzzer -o $@ $^ $(LIBS)
$(BUILD)/tests/fuzz/%_replay: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/fuzz/replay.o $(FUZZ_COMMON)
	$(call say,LD $@)$(LINK) -o $@ $^ $(LIBS)

# ---- benchmarks ----

$(BUILD)/tests/bench/%: $(BUILD)/tests/bench/%.o $(BUILD)/libvaecf.a
	$(call say,LD $@)$(LINK) -o $@ $^ $(LIBS)
bench-input: $(BUILD)/tests/bench/input_layer
	@lscpu | sed -n 's/^Model name: */machine: /p'; echo "command: $< results/bench/input-layer.csv"
	@mkdir -p results/bench && $< results/bench/input-layer.csv
bench-recommend: $(BIN)/vaecf-recommend $(BIN)/vaecf-export $(BUILD)/tests/bench/random_checkpoint
	@BIN=$(BIN) BUILD=$(BUILD) PYTHON=$(PYTHON) tests/bench/recommend.sh results/bench/recommend.csv

# PYTHON=... one with torch, scipy and h5py, for the comparison
bench: all $(BUILD)/tests/bench/products
	@echo "command: make bench PYTHON=$(PYTHON)"
	@BIN=$(BIN) BUILD=$(BUILD) PYTHON=$(PYTHON) tests/bench/train.sh results/bench

# INPUT=ratings.csv of MovieLens-1M
bench-parity: all
	@BIN=$(BIN) PYTHON=$(PYTHON) tests/bench/parity.sh $(INPUT)

# 20 million rows, made once; PYTHON has pandas, polars, duckdb. bench-preprocess-scale: files that grow, --memory 2G;
# ROWS="10000000 1000000000"
build/bench/ratings.csv: $(BIN)/vaecf-synthesize
	@mkdir -p $(@D) && $< --output $@
bench-preprocess: $(BIN)/vaecf-preprocess build/bench/ratings.csv
	@BIN=$(BIN) $(PYTHON) tests/bench/preprocess.py compare build/bench/ratings.csv results/bench/preprocess.csv
bench-preprocess-scale: $(BIN)/vaecf-preprocess $(BIN)/vaecf-synthesize
	@BIN=$(BIN) $(PYTHON) tests/bench/preprocess.py scale results/bench/preprocess-scale.csv $(ROWS)

# 300 MB of made-up reviews of each of two data sets' kinds, made once
build/bench/%.jsonl:
	@mkdir -p $(@D) && $(PYTHON) tests/bench/json_lines.py make $* $@ 300
bench-json: $(BIN)/vaecf-preprocess $(BUILD)/tests/bench/json_lines build/bench/amazon.jsonl build/bench/yelp.jsonl
	@BIN=$(BIN) BUILD=$(BUILD) $(PYTHON) tests/bench/json_lines.py compare build/bench results/bench/json.csv

bench-accuracy: all
	@BIN=$(BIN) DATA='$(DATA)' tests/bench/accuracy.sh results

FORMATTED = $(wildcard src/*.[ch] preprocess/*.[ch] cuda/*.[ch] cuda/*.cu cuda/*.cuh tests/*.cc tests/*/*.cc tests/*.[ch] tests/*/*.[ch])
SCRIPTS = .ci/run jobs/pbs/args jobs/pbs/vaecf-tmrsh $(wildcard tests/gpu/stand_ins/* jobs/*.sh jobs/*/*.sh tests/*.sh tests/*/*.sh)
# Other versions of clang-format format otherwise.
CLANG_FORMAT := clang-format-14
lint:
	@command -v $(CLANG_FORMAT) shellcheck > /dev/null || \
	    { echo "error: make lint takes $(CLANG_FORMAT) and shellcheck; on Debian 12 jobs/setup.sh develop installs them" >&2; exit 69; }
	$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)
	shellcheck -x $(SCRIPTS)
	@! grep -nE '(until|while) .*; do sleep [^;]*; done' tests/*.sh tests/*/*.sh | grep -v 'SECONDS -ge' || \
	    { echo "error: loops that wait without a limit; tests/common.sh has within" >&2; exit 1; }
format:
	$(CLANG_FORMAT) -i $(FORMATTED)

# ---- the rest ----

setup:
	@jobs/setup.sh

demo: setup
	@$(MAKE) --no-print-directory all
	@jobs/demo.sh "$(INPUT)"

SHARE = $(DESTDIR)$(PREFIX)/share/vaecf
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)/jobs/configs $(SHARE)/jobs/slurm $(SHARE)/jobs/pbs
	install $(COMMANDS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 README.md LICENSE $(SHARE)
	install -m 644 jobs/SITES.md $(SHARE)/jobs
	install jobs/common.sh jobs/rank.sh jobs/plot.sh $(SHARE)/jobs
	install -m 644 jobs/configs/*.yaml $(SHARE)/jobs/configs
	install jobs/slurm/*.sh $(SHARE)/jobs/slurm
	install jobs/pbs/*.sh jobs/pbs/args jobs/pbs/vaecf-tmrsh $(SHARE)/jobs/pbs

clean:
	rm -rf build bin

-include $(shell [ ! -d $(BUILD) ] || find $(BUILD)/src $(BUILD)/preprocess $(BUILD)/tests $(BUILD)/double $(BUILD)/cuda $(BUILD)/cuda_host -name '*.d' 2>/dev/null)
