/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#import <Foundation/Foundation.h>
#import <Virtualization/Virtualization.h>

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vz/framework.h"

#define TEXT_SIZE 4096
#define PORT_COUNT 2
#define PATIENCE_MS 2000

/* GNUstep's count of the objects of each class. */
BOOL GSDebugAllocationActive(BOOL active);
int GSDebugAllocationCount(Class class);
Class objc_lookup_class(const char *name);
void *_Block_copy(const void *block);

/* Guarded by the lock: queues and the test come here. */
static struct {
    pthread_mutex_t lock;
    struct vz_double_script script;
    char description[TEXT_SIZE];
    char calls[TEXT_SIZE];
    void *held; /* a block; what it keeps stays alive */
    void *held_queue;
    int port_fds[PORT_COUNT];
    int abandoned;
    __unsafe_unretained VZVirtualMachine *machine;
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool vz_double_is_macos_14(void) {
    return !shared.script.is_old;
}

__attribute__((format(printf, 2, 3))) static void add(char text[TEXT_SIZE], const char *format,
                                                      ...) {
    va_list arguments;
    size_t length = strlen(text);
    va_start(arguments, format);
    vsnprintf(text + length, TEXT_SIZE - length, format, arguments);
    va_end(arguments);
}

static NSError *error_of(const char *text) {
    return [NSError
        errorWithDomain:[NSString stringWithUTF8String:"VZErrorDomain"]
                   code:1
               userInfo:[NSDictionary dictionaryWithObject:[NSString stringWithUTF8String:text]
                                                    forKey:NSLocalizedDescriptionKey]];
}

/* ---- The description -------------------------------------------------------------------------- */

@interface VZLinuxBootLoader ()
@property(copy) NSURL *kernel;
@end
@implementation VZBootLoader
@end
@implementation VZLinuxBootLoader
- (instancetype)initWithKernelURL:(NSURL *)url {
    self = [super init];
    self.kernel = url;
    return self;
}
@end

@interface VZGenericMachineIdentifier ()
@property(readwrite, copy) NSData *dataRepresentation;
@end
@implementation VZGenericMachineIdentifier
- (instancetype)init {
    static atomic_int next;
    char text[16];
    int length = snprintf(text, sizeof(text), "machine-%d", atomic_fetch_add(&next, 1));
    self = [super init];
    self.dataRepresentation = [[NSData alloc] initWithBytes:text length:(NSUInteger)length];
    return self;
}
- (instancetype)initWithDataRepresentation:(NSData *)data {
    self = [super init];
    if (data.length < 8 || memcmp(data.bytes, "machine-", 8) != 0) {
        return nil;
    }
    self.dataRepresentation = data;
    return self;
}
- (id)copyWithZone:(void *)zone {
    (void)zone;
    return [[VZGenericMachineIdentifier alloc] initWithDataRepresentation:self.dataRepresentation];
}
@end
@implementation VZPlatformConfiguration
@end
@implementation VZGenericPlatformConfiguration
@end

@interface VZFileHandleSerialPortAttachment ()
@property(strong) NSFileHandle *reading;
@property(strong) NSFileHandle *writing;
@end
@implementation VZSerialPortAttachment
@end
@implementation VZFileHandleSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(NSFileHandle *)reading
                        fileHandleForWriting:(NSFileHandle *)writing {
    self = [super init];
    self.reading = reading;
    self.writing = writing;
    return self;
}
@end
@implementation VZVirtioConsolePortConfiguration
@end
@interface VZVirtioConsolePortConfigurationArray () {
  @public
    VZVirtioConsolePortConfiguration *ports[PORT_COUNT];
}
@end
@implementation VZVirtioConsolePortConfigurationArray
- (void)setObject:(VZVirtioConsolePortConfiguration *)port atIndexedSubscript:(NSUInteger)index {
    if (index < PORT_COUNT) {
        ports[index] = port;
    }
}
@end
@implementation VZConsoleDeviceConfiguration
@end
@interface VZVirtioConsoleDeviceConfiguration ()
@property(readwrite, strong) VZVirtioConsolePortConfigurationArray *ports;
@end
@implementation VZVirtioConsoleDeviceConfiguration
- (instancetype)init {
    self = [super init];
    self.ports = [[VZVirtioConsolePortConfigurationArray alloc] init];
    return self;
}
@end

@implementation VZEntropyDeviceConfiguration
@end
@implementation VZVirtioEntropyDeviceConfiguration
@end

@interface VZDiskImageStorageDeviceAttachment ()
@property(copy) NSURL *url;
@property BOOL readOnly;
@end
@implementation VZStorageDeviceAttachment
@end
@implementation VZDiskImageStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL *)url readOnly:(BOOL)readOnly error:(NSError **)error {
    self = [super init];
    if (shared.script.refuses_disks) {
        *error = error_of("no such image");
        return nil;
    }
    self.url = url;
    self.readOnly = readOnly;
    return self;
}
@end
@interface VZVirtioBlockDeviceConfiguration ()
@property(strong) VZStorageDeviceAttachment *attachment;
@end
@implementation VZStorageDeviceConfiguration
@end
@implementation VZVirtioBlockDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment *)attachment {
    self = [super init];
    self.attachment = attachment;
    return self;
}
@end

@implementation VZVirtualMachineConfiguration
- (BOOL)validateWithError:(NSError **)error {
    if (shared.script.refuses) {
        *error = error_of("too many processors");
    }
    return !shared.script.refuses;
}
- (BOOL)validateSaveRestoreSupportWithError:(NSError **)error {
    if (shared.script.refuses_saving) {
        *error = error_of("a device that cannot be saved");
    }
    return !shared.script.refuses_saving;
}
@end

static void describe(VZVirtualMachineConfiguration *configuration) {
    VZLinuxBootLoader *loader = (VZLinuxBootLoader *)configuration.bootLoader;
    char *text = shared.description;
    text[0] = '\0';
    add(text, "kernel %s\ninitramfs %s\ncommand line %s\n", loader.kernel.path.UTF8String,
        loader.initialRamdiskURL.path.UTF8String, loader.commandLine.UTF8String);
    add(text, "%lu processors, %llu bytes, %lu entropy\n", configuration.CPUCount,
        (unsigned long long)configuration.memorySize, configuration.entropyDevices.count);
    VZVirtioConsoleDeviceConfiguration *console = [configuration.consoleDevices objectAtIndex:0];
    for (size_t i = 0; i < PORT_COUNT; i++) {
        VZVirtioConsolePortConfiguration *port = console.ports->ports[i];
        VZFileHandleSerialPortAttachment *attachment =
            (VZFileHandleSerialPortAttachment *)port.attachment;
        shared.port_fds[i] = attachment.writing.fileDescriptor;
        add(text, "port %s%s%s\n", port.name.UTF8String, port.isConsole ? ", console" : "",
            attachment.reading.fileDescriptor == shared.port_fds[i] ? "" : ", two descriptors");
    }
    for (NSUInteger i = 0; i < configuration.storageDevices.count; i++) {
        VZVirtioBlockDeviceConfiguration *device = [configuration.storageDevices objectAtIndex:i];
        VZDiskImageStorageDeviceAttachment *attachment =
            (VZDiskImageStorageDeviceAttachment *)device.attachment;
        add(text, "disk %s%s\n", attachment.url.path.UTF8String,
            attachment.readOnly ? ", read-only" : "");
    }
}

/* ---- The machine ------------------------------------------------------------------------------ */

typedef void (^handler_block)(NSError *error);

static const struct {
    const char *word;
    VZVirtualMachineState between;
    VZVirtualMachineState after;
} calls[VZ_DOUBLE_CALL_COUNT] = {
    [VZ_DOUBLE_START] = {"start", VZVirtualMachineStateStarting, VZVirtualMachineStateRunning},
    [VZ_DOUBLE_STOP] = {"stop", VZVirtualMachineStateStopping, VZVirtualMachineStateStopped},
    [VZ_DOUBLE_PAUSE] = {"pause", VZVirtualMachineStatePausing, VZVirtualMachineStatePaused},
    [VZ_DOUBLE_RESUME] = {"resume", VZVirtualMachineStateResuming, VZVirtualMachineStateRunning},
    [VZ_DOUBLE_SAVE] = {"save", VZVirtualMachineStateSaving, VZVirtualMachineStatePaused},
    [VZ_DOUBLE_RESTORE] = {"restore", VZVirtualMachineStateRestoring, VZVirtualMachineStatePaused},
};

@interface VZVirtualMachine () {
    __unsafe_unretained id<VZVirtualMachineDelegate> _delegate;
}
@property(readwrite) VZVirtualMachineState state;
@property(strong) VZVirtualMachineConfiguration *configuration;
@property(strong) dispatch_queue_t queue;
@end

@implementation VZVirtualMachine
@dynamic delegate;
+ (BOOL)isSupported {
    return !shared.script.is_unsupported;
}
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration *)configuration
                                queue:(dispatch_queue_t)queue {
    self = [super init];
    self.configuration = configuration;
    self.queue = queue;
    pthread_mutex_lock(&shared.lock);
    shared.machine = self;
    describe(configuration);
    pthread_mutex_unlock(&shared.lock);
    return self;
}
- (void)dealloc {
    pthread_mutex_lock(&shared.lock);
    shared.machine = shared.machine == self ? nil : shared.machine;
    shared.abandoned +=
        _state != VZVirtualMachineStateStopped && _state != VZVirtualMachineStateError;
    pthread_mutex_unlock(&shared.lock);
}
- (void)check {
    if (!vz_double_is_on(self.queue)) {
        fprintf(stderr, "Virtualization: a call that is not on the machine's queue\n");
        abort();
    }
}
- (id<VZVirtualMachineDelegate>)delegate {
    return _delegate;
}
- (void)setDelegate:(id<VZVirtualMachineDelegate>)delegate {
    [self check];
    _delegate = delegate;
}
- (BOOL)canStop {
    [self check];
    return self.state == VZVirtualMachineStateRunning || self.state == VZVirtualMachineStatePaused;
}

/* From now on between two states; what is done then comes with the answer. */
- (void)call:(enum vz_double_call)call
        from:(BOOL)allowed
          do:(NSError * (^)(void))action
        then:(handler_block)handler {
    [self check];
    VZVirtualMachineState before = self.state;
    pthread_mutex_lock(&shared.lock);
    add(shared.calls, "%s ", calls[call].word);
    enum vz_double_answer answer = shared.script.answers[call];
    pthread_mutex_unlock(&shared.lock);
    if (!allowed) {
        dispatch_async(self.queue, ^{
          handler(error_of("the state is another one"));
        });
        return;
    }
    self.state = calls[call].between;
    void (^work)(void) = ^{
      NSError *error = answer == VZ_DOUBLE_FAILS ? error_of("the double fails")
                       : action                  ? action()
                                                 : nil;
      if (self.state == calls[call].between) {
          self.state = error ? before : calls[call].after;
      }
      handler(error);
    };
    if (answer != VZ_DOUBLE_HOLDS) {
        dispatch_async(self.queue, work);
        return;
    }
    pthread_mutex_lock(&shared.lock);
    shared.held = _Block_copy((__bridge const void *)work);
    shared.held_queue = (__bridge_retained void *)self.queue;
    pthread_mutex_unlock(&shared.lock);
}
- (void)startWithCompletionHandler:(handler_block)handler {
    [self call:VZ_DOUBLE_START from:self.state == VZVirtualMachineStateStopped do:nil then:handler];
}
- (void)stopWithCompletionHandler:(handler_block)handler {
    [self call:VZ_DOUBLE_STOP from:self.canStop do:nil then:handler];
}
- (void)pauseWithCompletionHandler:(handler_block)handler {
    [self call:VZ_DOUBLE_PAUSE from:self.state == VZVirtualMachineStateRunning do:nil then:handler];
}
- (void)resumeWithCompletionHandler:(handler_block)handler {
    [self call:VZ_DOUBLE_RESUME from:self.state == VZVirtualMachineStatePaused do:nil then:handler];
}

/* A saved state is the identifier's text and the description's: a machine takes only what it saved itself. */
- (NSString *)identity {
    VZGenericPlatformConfiguration *platform =
        (VZGenericPlatformConfiguration *)self.configuration.platform;
    return [platform.machineIdentifier.dataRepresentation base64EncodedStringWithOptions:0];
}
- (void)saveMachineStateToURL:(NSURL *)url completionHandler:(handler_block)handler {
    NSError * (^action)(void) = ^NSError * {
        FILE *file = fopen(url.path.UTF8String, "wx");
        if (!file) {
            return error_of("the file cannot be made");
        }
        fprintf(file, "%s", [self identity].UTF8String);
        fclose(file);
        return nil;
    };
    [self call:VZ_DOUBLE_SAVE
          from:self.state == VZVirtualMachineStatePaused
            do:action
          then:handler];
}
- (void)restoreMachineStateFromURL:(NSURL *)url completionHandler:(handler_block)handler {
    NSError * (^action)(void) = ^NSError * {
        char text[128] = {0};
        FILE *file = fopen(url.path.UTF8String, "r");
        if (!file) {
            return error_of("there is no such file");
        }
        size_t size = fread(text, 1, sizeof(text) - 1, file);
        fclose(file);
        BOOL same = size > 0 && strcmp(text, [self identity].UTF8String) == 0;
        return same ? nil : error_of("it is another machine's");
    };
    [self call:VZ_DOUBLE_RESTORE
          from:self.state == VZVirtualMachineStateStopped
            do:action
          then:handler];
}
- (void)end:(const char *)text {
    [self check];
    self.state = text ? VZVirtualMachineStateError : VZVirtualMachineStateStopped;
    if (text) {
        [self.delegate virtualMachine:self didStopWithError:error_of(text)];
    } else {
        [self.delegate guestDidStopVirtualMachine:self];
    }
}
@end

/* ---- For the test ----------------------------------------------------------------------------- */

void vz_double_reset(const struct vz_double_script *script) {
    GSDebugAllocationActive(YES);
    vz_double_drop_held();
    pthread_mutex_lock(&shared.lock);
    shared.script = *script;
    shared.calls[0] = shared.description[0] = '\0';
    shared.abandoned = 0;
    pthread_mutex_unlock(&shared.lock);
}

static bool take_held(bool is_answered) {
    pthread_mutex_lock(&shared.lock);
    void *block = shared.held;
    void *queue = shared.held_queue;
    shared.held = shared.held_queue = NULL;
    pthread_mutex_unlock(&shared.lock);
    if (!block) {
        return false;
    }
    @autoreleasepool {
        void (^work)(void) = (__bridge_transfer void (^)(void))block;
        dispatch_queue_t own = (__bridge_transfer dispatch_queue_t)queue;
        if (is_answered) {
            dispatch_async(own, work);
        }
    }
    return true;
}

bool vz_double_answer_held(void) {
    return take_held(true);
}

void vz_double_drop_held(void) {
    (void)take_held(false);
}

bool vz_double_holds(void) {
    bool holds = false;
    for (int i = 0; i < PATIENCE_MS && !holds; i++) {
        pthread_mutex_lock(&shared.lock);
        holds = shared.held;
        pthread_mutex_unlock(&shared.lock);
        if (!holds) {
            usleep(1000);
        }
    }
    return holds;
}

const char *vz_double_description(void) {
    return shared.description;
}

const char *vz_double_calls(void) {
    return shared.calls;
}

void vz_double_end(const char *text) {
    @autoreleasepool {
        pthread_mutex_lock(&shared.lock);
        VZVirtualMachine *machine = shared.machine;
        pthread_mutex_unlock(&shared.lock);
        dispatch_async(machine.queue, ^{
          [machine end:text];
        });
    }
}

int vz_double_port_fd(size_t index) {
    return shared.port_fds[index];
}

int vz_double_abandoned(void) {
    return shared.abandoned;
}

static const char *const classes[] = {
    "KelpieMachine",
    "KelpieAnswer",
    "QueueDouble",
    "SemaphoreDouble",
    "VZLinuxBootLoader",
    "VZGenericMachineIdentifier",
    "VZGenericPlatformConfiguration",
    "VZFileHandleSerialPortAttachment",
    "VZVirtioConsolePortConfiguration",
    "VZVirtioConsolePortConfigurationArray",
    "VZVirtioConsoleDeviceConfiguration",
    "VZVirtioEntropyDeviceConfiguration",
    "VZDiskImageStorageDeviceAttachment",
    "VZVirtioBlockDeviceConfiguration",
    "VZVirtualMachineConfiguration",
    "VZVirtualMachine",
    "NSError",
    "NSURL",
    "GSFileHandle",
    "GSArray",
    "GSMutableArray",
    "NSDataMalloc",
};
#define CLASS_COUNT (sizeof(classes) / sizeof(classes[0]))

static int baseline[CLASS_COUNT];

static int count_of(size_t index) {
    Class class = objc_lookup_class(classes[index]);
    return (class ? GSDebugAllocationCount(class) : 0) - baseline[index];
}

void vz_double_set_baseline(void) {
    for (int i = 0; i < PATIENCE_MS && vz_double_queue_count() > 0; i++) {
        usleep(1000);
    }
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        baseline[i] += count_of(i);
    }
}

static size_t count_live(char *names, size_t size) {
    size_t sum = 0;
    size_t length = 0;
    names[0] = '\0';
    for (size_t i = 0; i < CLASS_COUNT; i++) {
        int count = count_of(i);
        if (count > 0 && length < size) {
            sum += (size_t)count;
            length += (size_t)snprintf(names + length, size - length, "%d %s ", count, classes[i]);
        }
    }
    return sum;
}

size_t vz_double_live(char *names, size_t size) {
    size_t count = 0;
    for (int i = 0; i < PATIENCE_MS; i++) {
        count = count_live(names, size);
        if (count == 0 && vz_double_queue_count() == 0) {
            return 0;
        }
        usleep(1000);
    }
    return count + (size_t)vz_double_queue_count();
}
