/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* What src/backend/vz/vz_machine.m uses of the Virtualization framework, declared by us (Foundation/Foundation.h says why). Apple has
 * what saves and restores a machine on arm64 alone. */
#ifndef KELPIE_TESTS_VZ_VIRTUALIZATION_H
#define KELPIE_TESTS_VZ_VIRTUALIZATION_H

#import <Foundation/Foundation.h>

/* The double of the framework (framework.h) says which macOS this is. */
#if defined(KELPIE_VZ_DOUBLE)
bool vz_double_is_macos_14(void);
#define __builtin_available(...) vz_double_is_macos_14()
#endif

@class VZVirtualMachine;

@protocol VZVirtualMachineDelegate <NSObject>
@optional
- (void)guestDidStopVirtualMachine:(VZVirtualMachine *)virtualMachine;
- (void)virtualMachine:(VZVirtualMachine *)virtualMachine didStopWithError:(NSError *)error;
@end

@interface VZBootLoader : NSObject
@end
@interface VZLinuxBootLoader : VZBootLoader
- (instancetype)initWithKernelURL:(NSURL *)url;
@property(copy) NSURL *initialRamdiskURL;
@property(copy) NSString *commandLine;
@end

@interface VZGenericMachineIdentifier : NSObject
- (instancetype)initWithDataRepresentation:(NSData *)data;
@property(readonly) NSData *dataRepresentation;
@end
@interface VZPlatformConfiguration : NSObject
@end
@interface VZGenericPlatformConfiguration : VZPlatformConfiguration
@property(copy) VZGenericMachineIdentifier *machineIdentifier;
@end

@interface VZSerialPortAttachment : NSObject
@end
@interface VZFileHandleSerialPortAttachment : VZSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(NSFileHandle *)reading
                        fileHandleForWriting:(NSFileHandle *)writing;
@end
@interface VZVirtioConsolePortConfiguration : NSObject
@property(copy) NSString *name;
@property BOOL isConsole;
@property(strong) VZSerialPortAttachment *attachment;
@end
@interface VZVirtioConsolePortConfigurationArray : NSObject
- (void)setObject:(VZVirtioConsolePortConfiguration *)port atIndexedSubscript:(NSUInteger)index;
@end
@interface VZConsoleDeviceConfiguration : NSObject
@end
@interface VZVirtioConsoleDeviceConfiguration : VZConsoleDeviceConfiguration
@property(readonly) VZVirtioConsolePortConfigurationArray *ports;
@end

@interface VZEntropyDeviceConfiguration : NSObject
@end
@interface VZVirtioEntropyDeviceConfiguration : VZEntropyDeviceConfiguration
@end

@interface VZStorageDeviceAttachment : NSObject
@end
@interface VZDiskImageStorageDeviceAttachment : VZStorageDeviceAttachment
- (instancetype)initWithURL:(NSURL *)url readOnly:(BOOL)readOnly error:(NSError **)error;
@end
@interface VZStorageDeviceConfiguration : NSObject
@end
@interface VZVirtioBlockDeviceConfiguration : VZStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment *)attachment;
@end

@interface VZVirtualMachineConfiguration : NSObject
@property(strong) VZBootLoader *bootLoader;
@property(strong) VZPlatformConfiguration *platform;
@property NSUInteger CPUCount;
@property uint64_t memorySize;
@property(copy) NSArray *entropyDevices;
@property(copy) NSArray *consoleDevices;
@property(copy) NSArray *storageDevices;
- (BOOL)validateWithError:(NSError **)error;
#if defined(__arm64__)
- (BOOL)validateSaveRestoreSupportWithError:(NSError **)error;
#endif
@end

typedef enum : long {
    VZVirtualMachineStateStopped,
    VZVirtualMachineStateRunning,
    VZVirtualMachineStatePaused,
    VZVirtualMachineStateError,
    VZVirtualMachineStateStarting,
    VZVirtualMachineStatePausing,
    VZVirtualMachineStateResuming,
    VZVirtualMachineStateStopping,
    VZVirtualMachineStateSaving,
    VZVirtualMachineStateRestoring,
} VZVirtualMachineState;

@interface VZVirtualMachine : NSObject
@property(readonly) VZVirtualMachineState state;
@property(class, readonly, getter=isSupported) BOOL supported;
@property(readonly) BOOL canStop;
@property(weak) id<VZVirtualMachineDelegate> delegate;
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration *)configuration
                                queue:(dispatch_queue_t)queue;
- (void)startWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)pauseWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)resumeWithCompletionHandler:(void (^)(NSError *error))handler;
- (void)stopWithCompletionHandler:(void (^)(NSError *error))handler;
#if defined(__arm64__)
- (void)saveMachineStateToURL:(NSURL *)url completionHandler:(void (^)(NSError *error))handler;
- (void)restoreMachineStateFromURL:(NSURL *)url completionHandler:(void (^)(NSError *error))handler;
#endif
@end

#endif
